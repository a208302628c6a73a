"""What every learner of ``conf/learner`` promises to the trainer."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import RunStopped, UsageError
from insight_rl.hashed_files import digest_of
from insight_rl.learner.settings import StartSpec
from insight_rl.monitor.dictionary import is_of_the_machine
from insight_rl.run_stops import stop_if_logprobs_diverge
from insight_rl.types import Completion, Group, Metrics, Prompt, Reward
from insight_rl.weight_sync.base import TensorInfo

CONF = Path(__file__).parents[2] / "conf" / "learner"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
IN_PROCESS = ("accelerate",)
ALGORITHM = Algorithm(loss=GRPO(), advantage="group_std", clip_low=0.2, clip_high=0.2)
METRICS = {
    "learner/lr",
    "learner/loss",
    "learner/grad_norm",
    "learner/entropy",
    "learner/ratio_mean",
    "learner/importance_kept_fraction",
    "learner/importance_weight_mean",
    "learner/clip_fraction_low",
    "learner/clip_fraction_high",
    "learner/kl_to_rollout",
    "learner/num_tokens",
    "learner/num_input_tokens",
    "learner/num_sequences",
    "learner/num_skipped_groups",
    "learner/num_updates",
    "learner/num_extra_forwards",
    "learner/mfu",
    "rollout/logprob_gap_max",
    "rollout/logprob_gap_mean",
}

each_learner = pytest.mark.parametrize(
    "name",
    [
        # One worker of a parallel test run does all that share the history of a learner in processes.
        pytest.param(name, marks=[] if name in IN_PROCESS else [pytest.mark.slow, pytest.mark.xdist_group(name)])
        for name in NAMES
    ],
)


def make_learner(name: str, **changes):
    node = OmegaConf.to_container(compose_config([f"learner={name}"]).learner)
    return build_part("learner", node | {"lr": 1e-3, "warmup_steps": 2} | changes)


def started(name: str, model_path: Path, **changes):
    learner = make_learner(name, **changes)
    learner.start(spec_of(model_path))
    return learner


def spec_of(model_path: Path) -> StartSpec:
    return StartSpec(
        model_path=model_path,
        dtype="float32",
        loss=ALGORITHM,
        temperature=1.0,
        max_completion_tokens=8,
        prompts_per_update=2,
        num_epochs=1,
        num_steps=10,
        seed=0,
    )


def make_groups(seed: int) -> list[Group]:
    """Three prompts, the last of them flat: two updates, the second with nothing to learn."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(5, 24, size=int(rng.integers(low, high))).tolist())

    groups = []
    for number in range(3):
        completions = [tokens(1, 9) for _ in range(4)]
        groups.append(
            Group(
                prompt=Prompt(id=f"{seed}/{number}", task="t", text="", token_ids=tokens(3, 7), answer=None),
                completions_G=tuple(
                    Completion(
                        token_ids=ids,
                        logprobs=(-3.0,) * len(ids),
                        text="",
                        finish_reason="stop",
                        policy_version=0,
                    )
                    for ids in completions
                ),
                rewards_G=tuple(Reward(value=float(j < number % 2 + 1), success=True) for j in range(4))
                if number < 2
                else (Reward(value=0.0, success=False),) * 4,
            )
        )
    return groups


def not_finite(group: Group) -> Group:
    completions = [dataclasses.replace(c, logprobs=(math.nan,) * len(c.logprobs)) for c in group.completions_G]
    return dataclasses.replace(group, completions_G=tuple(completions))


SCORED = [
    (Prompt(id=f"s{n}", task="t", text="", token_ids=(1, *range(5, 8 + n)), answer=None), np.array(ids, dtype=np.int32))
    for n, ids in enumerate(([7, 9, 2], [11], [5, 6, 7, 8, 9, 10]))
]


def step(learner, seed: int) -> Metrics:
    groups = make_groups(seed)
    return learner.step(groups, ALGORITHM.advantages(groups))


def without_speed(metrics: Metrics) -> Metrics:
    return {key: value for key, value in metrics.items() if not is_of_the_machine(key)}


def write_checkpoint(learner, folder: Path) -> None:
    """As a run's store does, but at once."""
    writing = learner.save_checkpoint(folder)
    if writing is not None:
        digests = writing.write(threading.Event())
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert digests == {str(path.relative_to(folder)): digest_of(path) for path in files}
        writing.check()


def weights_of(learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights().named_tensors()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@dataclass(frozen=True)
class History:
    """What one learner did, from its start to its end. Starting one may take processes, so all tests share it."""

    start: dict[str, torch.Tensor]
    first: Metrics
    after_first: dict[str, torch.Tensor]
    second: Metrics
    empty: Metrics
    at_checkpoint: dict[str, torch.Tensor]
    gone_on: list[Metrics]
    end: dict[str, torch.Tensor]
    error_not_finite: RunStopped
    error_after_close: RuntimeError
    described: list[TensorInfo]
    before_first: list[np.ndarray]
    """Log-probs of the completions of ``make_groups(1)`` before the step that trains on them."""
    gaps_of_first: dict[str, np.ndarray]
    scored: list[np.ndarray]
    """The completions of ``SCORED``, at the checkpoint."""
    num_bytes_released: int
    """On the device of rank 0, after the checkpoint; then the learner went on."""
    folder: Path
    """Holds ``model``, ``weights`` and ``checkpoint``, written after the empty step."""


@pytest.fixture(scope="module")
def history_of(tied_model, tmp_path_factory):
    """Called as ``history_of(name)``; each learner lives once."""

    @functools.cache
    def live(name: str) -> History:
        folder = tmp_path_factory.mktemp(name)
        learner = started(name, tied_model)
        start = weights_of(learner)
        groups = make_groups(1)
        before_first = learner.logprobs([(g.prompt, np.asarray(c.token_ids)) for g in groups for c in g.completions_G])
        first = step(learner, 1)
        gaps_of_first = learner.completion_gaps()
        after_first = weights_of(learner)
        second, empty = step(learner, 2), learner.step([], [])
        learner.save_model(folder / "model")
        learner.weights().save(folder / "weights")
        write_checkpoint(learner, folder / "checkpoint")
        at_checkpoint = weights_of(learner)
        described, scored = learner.weights().describe(), learner.logprobs(SCORED)
        num_bytes_released = learner._everywhere("release_memory")
        learner._is_released = True
        learner.release_memory()
        gone_on = [step(learner, seed) for seed in (3, 4)]
        end = weights_of(learner)
        broken = [not_finite(group) for group in make_groups(0)]
        with pytest.raises(RunStopped) as stopped:
            learner.step(broken, ALGORITHM.advantages(broken))
        learner.close()
        learner.close()
        with pytest.raises(RuntimeError) as closed:
            step(learner, 5)
        return History(
            start=start,
            first=first,
            after_first=after_first,
            second=second,
            empty=empty,
            at_checkpoint=at_checkpoint,
            gone_on=gone_on,
            end=end,
            error_not_finite=stopped.value,
            error_after_close=closed.value,
            described=described,
            before_first=before_first,
            gaps_of_first=gaps_of_first,
            scored=scored,
            num_bytes_released=num_bytes_released,
            folder=folder,
        )

    return live


@each_learner
def test_weights_are_listed_once_and_every_one_of_them_learns(name, history_of) -> None:
    history = history_of(name)
    assert "lm_head.weight" not in history.start and "model.embed_tokens.weight" in history.start
    assert all(not torch.equal(history.after_first[key], history.start[key]) for key in history.start)


@each_learner
def test_what_will_be_sent_is_known_without_gathering_it(name, history_of) -> None:
    history = history_of(name)
    described = [(info.name, info.dtype, info.shape) for info in history.described]
    assert described == [(key, tensor.dtype, tuple(tensor.shape)) for key, tensor in history.at_checkpoint.items()]


@each_learner
def test_completions_are_scored_as_by_the_saved_model(name, history_of) -> None:
    from transformers import AutoModelForCausalLM

    history = history_of(name)
    model = AutoModelForCausalLM.from_pretrained(history.folder / "model", dtype=torch.float32).eval()
    for (prompt, ids), scores in zip(SCORED, history.scored, strict=True):
        tokens = torch.tensor([[*prompt.token_ids, *ids.tolist()]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(tokens).logits[0, len(prompt.token_ids) - 1 : -1], dim=-1)
        exact = logprobs.gather(1, torch.tensor(ids)[:, None].long()).squeeze(1)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, exact.numpy(), atol=1e-4)


@each_learner
def test_the_gap_of_every_completion_that_was_trained_on(name, history_of) -> None:
    history = history_of(name)
    exact = iter(history.before_first)
    groups = make_groups(1)
    assert history.gaps_of_first.keys() == {group.prompt.id for group in groups}
    for number, group in enumerate(groups):
        expected = np.array([np.abs(np.asarray(c.logprobs) - next(exact)).mean() for c in group.completions_G])
        found = history.gaps_of_first[group.prompt.id]
        known = ~np.isnan(found)
        np.testing.assert_allclose(found[known], expected[known], atol=1e-4)
        # Of the flat group one completion is computed, so that its update measures something.
        assert known.sum() == (4 if number < 2 else 1)


@each_learner
def test_it_leaves_its_device_and_comes_back(name, history_of) -> None:
    """That nothing else changes by it is seen where a learner that never left resumes and goes on to the same end."""
    history = history_of(name)
    num_parameters = sum(tensor.numel() for tensor in history.start.values())
    assert history.num_bytes_released >= 8 * num_parameters, "AdamW's moments; weights may be mapped from a file here"


@each_learner
def test_a_step_reports_its_metrics(name, history_of) -> None:
    history = history_of(name)
    assert history.first.keys() == METRICS
    assert all(math.isfinite(value) for value in history.first.values())
    assert history.first["learner/num_updates"] == 2
    assert history.first["learner/num_skipped_groups"] == 1
    assert (history.first["learner/lr"], history.second["learner/lr"]) == (5e-4, 1e-3)


@each_learner
def test_a_step_without_groups_changes_nothing_and_reports_counts_only(name, history_of) -> None:
    """Whoever reads the metrics of a step must not count on means: ``run_stops`` did, and a run died of it."""
    history = history_of(name)
    assert history.empty.keys() == {
        "learner/lr",
        "learner/num_tokens",
        "learner/num_input_tokens",
        "learner/num_sequences",
        "learner/num_skipped_groups",
        "learner/num_updates",
        "learner/num_extra_forwards",
    }
    assert history.empty["learner/num_updates"] == 0
    assert history.empty["learner/num_extra_forwards"] == 0
    stop_if_logprobs_diverge(history.empty, max_mean_gap=1e-9)


@each_learner
def test_a_saved_model_loads_in_transformers(name, history_of, tied_model) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    history = history_of(name)
    folder = history.folder / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert_equal(dict(model.named_parameters()), history.at_checkpoint)
    assert model.config.tie_word_embeddings
    assert model.dtype == torch.float32
    original = AutoModelForCausalLM.from_pretrained(tied_model)
    assert model.generation_config.eos_token_id == original.generation_config.eos_token_id
    tokens, expected = (AutoTokenizer.from_pretrained(path)("12+3=")["input_ids"] for path in (folder, tied_model))
    assert tokens == expected


@each_learner
def test_saved_weights_are_a_safetensors_checkpoint_with_an_index(name, history_of) -> None:
    from safetensors.torch import load_file

    history = history_of(name)
    folder = history.folder / "weights"
    saved = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert_equal(saved, history.at_checkpoint)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == saved.keys()


@each_learner
def test_a_resumed_learner_goes_on_exactly(name, history_of, tied_model) -> None:
    history = history_of(name)
    resumed = started(name, tied_model)
    try:
        resumed.load_checkpoint(history.folder / "checkpoint")
        gone_on = [without_speed(step(resumed, seed)) for seed in (3, 4)]
        assert gone_on == [without_speed(metrics) for metrics in history.gone_on]
        assert_equal(weights_of(resumed), history.end)
    finally:
        resumed.close()


@each_learner
def test_a_checkpoint_of_another_kind_and_none_at_all_are_refused(name, history_of, tied_model, tmp_path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(history_of(name).folder / "checkpoint", folder)
    state_file = folder / "learner.json"
    state_file.write_text(json.dumps(json.loads(state_file.read_text()) | {"kind": "Another"}))
    learner = make_learner(name)
    with pytest.raises(UsageError, match=r"learner \(kind\)"):
        learner.load_checkpoint(folder)
    for damaged in ("", "[1]", "{}"):
        state_file.write_text(damaged)
        with pytest.raises(UsageError, match=r"learner\.json: damaged"):
            learner.load_checkpoint(folder)
    with pytest.raises(FileNotFoundError):
        learner.load_checkpoint(tmp_path / "nowhere")


class RunsCode:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@each_learner
def test_a_checkpoint_executes_nothing(name, history_of, tied_model, tmp_path) -> None:
    """Each file of the checkpoint in turn holds a pickle that acts when loaded, in torch's new or its old format.

    All ranks read it in the same way, so that those of other processes are given the last file only.
    """
    source = history_of(name).folder / "checkpoint"
    files = sorted(file.name for file in source.iterdir())
    assert files == ["learner.json", "rank_00000.json", "rank_00000.safetensors"]
    proof = tmp_path / "executed"
    for number, file in enumerate(files if name in IN_PROCESS else files[-1:]):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        torch.save({"extra": RunsCode(proof)}, folder / file, _use_new_zipfile_serialization=number % 2 == 0)
        learner = started(name, tied_model)
        try:
            with pytest.raises(UsageError, match="damaged"):
                learner.load_checkpoint(folder)
        finally:
            learner.close()
        assert not proof.exists()
    # Else nothing was tried. By the name of a file of tensors, torch would not take it for a pickle.
    torch.load((folder / file).rename(tmp_path / "pickle.pt"), weights_only=False)
    assert proof.exists()


@each_learner
def test_a_closed_learner_says_so(name, history_of) -> None:
    assert "not started, or already closed" in str(history_of(name).error_after_close)


@each_learner
def test_a_gradient_that_is_not_finite_stops_the_run(name, history_of) -> None:
    assert re.search(r"gradient norm is (nan|inf)", str(history_of(name).error_not_finite))


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_losses(untied_model, tmp_path) -> None:
    """And another stage of ZeRO; ``scripts/check_rank_change.py`` has more changes.

    Weights and optimizer are those of the checkpoint to the last bit; the steps after it add up in another order.
    """
    learner = started("deepspeed", untied_model, num_ranks=2, zero_stage=3)
    try:
        step(learner, 1)
        tmp_path.joinpath("first").mkdir()
        write_checkpoint(learner, tmp_path / "first")
        expected = weights_of(learner)
        gone_on = [step(learner, seed) for seed in (2, 3)]
        end = weights_of(learner)
    finally:
        learner.close()
    resumed = started("deepspeed", untied_model, num_ranks=1, zero_stage=2)
    try:
        resumed.load_checkpoint(tmp_path / "first")
        assert_equal(weights_of(resumed), expected)
        metrics = [step(resumed, seed) for seed in (2, 3)]
        for key in ("learner/loss", "learner/grad_norm", "learner/entropy", "learner/kl_to_rollout", "learner/lr"):
            assert [m[key] for m in metrics] == pytest.approx([m[key] for m in gone_on], rel=1e-4, abs=1e-6), key
        for key, tensor in weights_of(resumed).items():
            # AdamW divides by the size of the gradient: where that is nearly 0, noise decides its sign.
            assert (tensor - end[key]).abs().mean() < 1e-5, key
    finally:
        resumed.close()
