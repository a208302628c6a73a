"""What makes two runs comparable: a hash each of the initial weights, the pool and the held-out problems.

Every run writes them to ``identity.json`` in its folder; ``insight-rl compare`` refuses runs that differ in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.model_folder import fingerprint
from insight_rl.types import Prompt, Sampling

IDENTITY_FILE = "identity.json"


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    model: str
    """Hash of the weights that training starts from."""
    pool: str
    """Hash of the training prompts, in order: ids, tokens and answers."""
    problems: str
    """The same of the held-out problems."""
    evaluation: str
    """How they are sampled: number of samples, length, temperature, top_p and seed."""

    def write(self, run_dir: Path) -> None:
        write_atomically(run_dir / IDENTITY_FILE, json.dumps(asdict(self), indent=1))


def identify(model_path: Path, pool: Iterable[Prompt], problems: Iterable[Prompt], sampling: Sampling) -> RunIdentity:
    return RunIdentity(
        model=fingerprint(model_path),
        pool=prompts_digest(pool),
        problems=prompts_digest(problems),
        evaluation=json.dumps(asdict(sampling), sort_keys=True),
    )


def read_identity(run_dir: Path) -> RunIdentity:
    """Raises ``UsageError`` where the folder has none, or another version's."""
    file = run_dir / IDENTITY_FILE
    try:
        return RunIdentity(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file}: is not readable ({error}); run this arm and seed again in a new folder") from error


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(json.dumps([prompt.id, *map(int, prompt.token_ids)]).encode())
        digest.update(repr(prompt.answer).encode())
    return digest.hexdigest()
