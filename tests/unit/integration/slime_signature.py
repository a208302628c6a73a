"""What insight_rl.integration.slime uses of slime: names, parameters and fields, not its code.

Read in THUDM/slime at commit 624b824a898ab0ec1fcb4d373004c7f3852bf515: slime/rollout/data_source.py,
slime/utils/types.py (Sample), slime/utils/data.py (Dataset), slime/rollout/sglang_rollout.py (the loop below).
Bodies are ours and do what the callers rely on.
"""

from __future__ import annotations

import copy
import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Sample:
    group_index: int | None = None
    index: int | None = None
    rollout_id: int | None = None
    prompt: str | list[dict[str, str]] = ""
    multimodal_inputs: dict[str, Any] | None = None
    label: str | None = None
    reward: float | dict[str, Any] | None = None

    class Status(enum.Enum):
        PENDING = "pending"
        COMPLETED = "completed"
        TRUNCATED = "truncated"
        ABORTED = "aborted"
        FAILED = "failed"

    status: Status = Status.PENDING
    metadata: dict = field(default_factory=dict)

    def get_reward_value(self, args) -> float:
        return self.reward[args.reward_key] if args.reward_key else self.reward


class Dataset:
    def __init__(self, path):
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        self.samples = [Sample(prompt=row["text"], metadata=row.get("metadata") or {}) for row in rows]

    def __getitem__(self, idx):
        return self.samples[idx]

    def __len__(self):
        return len(self.samples)


class RolloutDataSource:
    def __init__(self, args):
        self.args = args
        self.sample_group_index = 0
        self.sample_index = 0
        self.sample_offset = 0
        self.dataset = Dataset(args.prompt_data) if args.prompt_data is not None else None

    def get_samples(self, num_samples):
        assert self.sample_offset + num_samples <= len(self.dataset)
        groups = []
        for row in self.dataset.samples[self.sample_offset : self.sample_offset + num_samples]:
            group = [copy.deepcopy(row) for _ in range(self.args.n_samples_per_prompt)]
            for sample in group:
                sample.group_index, sample.index = self.sample_group_index, self.sample_index
                self.sample_index += 1
            self.sample_group_index += 1
            groups.append(group)
        self.sample_offset += num_samples
        return groups

    def save(self, rollout_id):
        file = Path(self.args.save, f"rollout/global_dataset_state_dict_{rollout_id}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([self.sample_group_index, self.sample_index]), encoding="utf-8")

    def load(self, rollout_id=None):
        if self.args.load is None:
            return
        file = Path(self.args.load, f"rollout/global_dataset_state_dict_{rollout_id}.json")
        if file.exists():
            self.sample_group_index, self.sample_index = json.loads(file.read_text(encoding="utf-8"))

    def __len__(self):
        return len(self.dataset)


class RolloutDataSourceWithBuffer(RolloutDataSource):
    def __init__(self, args):
        super().__init__(args)
        self.buffer = []

    def get_samples(self, num_samples):
        groups = self.buffer[:num_samples]
        del self.buffer[:num_samples]
        missing = num_samples - len(groups)
        return groups + super().get_samples(num_samples=missing) if missing else groups

    def add_samples(self, samples):
        self.buffer += samples
