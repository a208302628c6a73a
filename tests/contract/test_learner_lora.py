"""What every learner of ``conf/learner`` promises with ``learner.lora``: two steps of the loss's very definition.

The reference is one process and plain peft in float64: a sequence at a time, a token at a time, torch's own AdamW. The
second step starts from an adapter that is not zero, so the KL term tells whether its reference is the model without it.
"""

from __future__ import annotations

import functools
import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.learner.settings import StartSpec
from insight_rl.types import Completion, Group, Metrics, Prompt, Reward

NAMES = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "learner").glob("*.yaml"))
RANK, ALPHA, KL_COEF, CAP = 4, 6.0, 0.2, 2.0
# AdamW in its nearly linear part: an entry's change is not its sign, which noise could turn.
ADAMW = {"lr": 0.5, "eps": 1.0, "betas": [0.5, 0.9], "weight_decay": 0.01}
OVERRIDES = ["algorithm=grpo", f"algorithm.kl_coef={KL_COEF}"]

slow = pytest.mark.slow
WAYS = {
    "accelerate": ("accelerate", {}),
    "deepspeed": ("deepspeed", {"zero_stage": 3, "num_ranks": 2}),
    "accelerate-2-ranks": ("accelerate", {"num_ranks": 2}),
}
"""The first of each learner is what the other tests are run with."""


def with_marks(way: str):
    """One process of a parallel test run does all that share the history of a learner in processes."""
    return pytest.param(way, marks=[] if way == "accelerate" else [slow, pytest.mark.xdist_group(f"lora {way}")])


each_way = pytest.mark.parametrize("way", [with_marks(way) for way in WAYS])
each_learner = pytest.mark.parametrize("way", [with_marks(name) for name in NAMES])


def started(way: str, model_path: Path, **changes):
    name, settings = WAYS[way]
    tree = compose_config([f"learner={name}", *OVERRIDES])
    node = OmegaConf.to_container(tree.learner)
    lora = {"rank": RANK, "alpha": ALPHA}
    settings = {"max_grad_norm": None, "lora": lora, **ADAMW, **settings, **changes}
    learner = build_part("learner", node | settings)
    learner.start(spec_of(model_path))
    return learner


def spec_of(model_path: Path) -> StartSpec:
    return StartSpec(
        model_path=model_path,
        dtype="float32",
        loss=build_part("algorithm", OmegaConf.to_container(compose_config(OVERRIDES).algorithm)),
        temperature=1.0,
        max_completion_tokens=8,
        prompts_per_update=1,
        num_epochs=1,
        num_steps=10,
        seed=0,
    )


def make_groups(seed: int) -> tuple[list[Group], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(2):
        completions = [tuple(rng.integers(5, 24, size=int(rng.integers(2, 9))).tolist()) for _ in range(4)]
        groups.append(
            Group(
                prompt=Prompt(
                    id=f"{seed}/{number}", task="t", text="", token_ids=tuple(rng.integers(5, 24, 5)), answer=None
                ),
                completions_G=tuple(
                    Completion(
                        token_ids=ids, logprobs=(-3.0,) * len(ids), text="", finish_reason="stop", policy_version=0
                    )
                    for ids in completions
                ),
                rewards_G=tuple(Reward(value=float(j <= number), success=j <= number) for j in range(4)),
            )
        )
    return groups, [rng.normal(size=4) for _ in groups]


def weights_of(learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights().named_tensors()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@dataclass(frozen=True)
class Moment:
    weights: dict[str, torch.Tensor]
    metrics: Metrics


@dataclass(frozen=True)
class History:
    start: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    metrics: list[Metrics]
    gone_on: Moment
    resumed: dict[str, torch.Tensor]
    resumed_gone_on: Moment
    folder: Path
    """Holds ``model``, ``adapter`` and ``checkpoint``, written after two steps."""


@pytest.fixture(scope="module")
def history_of(tied_model, tmp_path_factory):
    """Called as ``history_of(way)``; each learner lives once."""

    @functools.cache
    def live(way: str) -> History:
        folder = tmp_path_factory.mktemp(way)
        learner = started(way, tied_model)
        try:
            start = weights_of(learner)
            metrics = [learner.step(*make_groups(seed)) for seed in (1, 2)]
            after = weights_of(learner)
            learner.save_model(folder / "model")
            learner.save_checkpoint(folder / "checkpoint").write(threading.Event())
            gone_on = one_step(learner)
            # In the same processes, which take the longest to start; test_learner_contract.py has new ones.
            learner.start(spec_of(tied_model))
            learner.load_checkpoint(folder / "checkpoint")
            resumed = weights_of(learner)
            return History(start, after, metrics, gone_on, resumed, one_step(learner), folder)
        finally:
            learner.close()

    def one_step(learner) -> Moment:
        metrics = learner.step(*make_groups(3))
        return Moment(weights_of(learner), metrics)

    return live


def logprobs_of(model, prompt, completion) -> torch.Tensor:
    """(T,) of the completion's tokens."""
    ids = [*map(int, prompt), *map(int, completion)]
    logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(completion)), torch.tensor(ids[len(prompt) :])]


@pytest.fixture(scope="module")
def plain(tied_model) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The merged weights after two steps, and each step's mean KL to the start model; peft and torch alone."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    learner = started("accelerate", tied_model)
    adapter = {name: tensor.double() for name, tensor in learner._worker._engine.adapter_tensors()}
    learner.close()
    start = AutoModelForCausalLM.from_pretrained(tied_model, dtype=torch.float64)
    model = AutoModelForCausalLM.from_pretrained(tied_model, dtype=torch.float64)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config).eval()
    assert not set_peft_model_state_dict(model, adapter).unexpected_keys
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **ADAMW)
    kls = []
    for seed in (1, 2):
        groups, advantages = make_groups(seed)
        with torch.no_grad():
            old = [[logprobs_of(model, g.prompt.token_ids, c.token_ids) for c in g.completions_G] for g in groups]
            reference = [[logprobs_of(start, g.prompt.token_ids, c.token_ids) for c in g.completions_G] for g in groups]
        gaps = []
        for number, group in enumerate(groups):
            value = torch.zeros((), dtype=torch.float64)
            for j, completion in enumerate(group.completions_G):
                now = logprobs_of(model, group.prompt.token_ids, completion.token_ids)
                for t in range(len(now)):
                    advantage, ratio = advantages[number][j], (now[t] - old[number][j][t]).exp()
                    gap = reference[number][j][t] - now[t]
                    token = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
                    token = token + KL_COEF * ratio * (gap.exp() - gap - 1)
                    weight = (old[number][j][t] - float(completion.logprobs[t])).exp().clamp(max=CAP)
                    value = value + weight * token / (len(group.completions_G) * len(now))
                    gaps.append((gap.exp() - gap - 1).item())
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        kls.append(float(np.mean(gaps)))
    return dict(model.merge_and_unload().named_parameters()), kls


def test_every_learner_has_its_way():
    assert set(NAMES) <= WAYS.keys() and all(WAYS[name][0] == name for name in NAMES)


@each_way
def test_two_steps_are_those_of_plain_peft(way, history_of, plain) -> None:
    history, (expected, kls) = history_of(way), plain
    assert history.after.keys() == expected.keys()
    changes = {name: history.after[name].double() - history.start[name].double() for name in expected}
    plain_changes = {name: expected[name].detach() - history.start[name].double() for name in expected}
    size = torch.cat([change.ravel() for change in plain_changes.values()]).norm()
    error = torch.cat([(changes[name] - plain_changes[name]).ravel() for name in expected]).norm()
    assert size > 0.5 and error / size < 1e-5
    assert [metrics["learner/kl_to_reference"] for metrics in history.metrics] == pytest.approx(kls, rel=1e-4)
    assert kls[1] > 1e-3


@each_way
def test_only_what_is_adapted_changes_and_training_starts_from_the_model(way, history_of, tied_model) -> None:
    """Embeddings, norms and the head, which is the embedding here, are left alone."""
    from transformers import AutoModelForCausalLM

    history = history_of(way)
    assert_equal(history.start, dict(AutoModelForCausalLM.from_pretrained(tied_model).named_parameters()))
    changed = {name for name in history.start if not torch.equal(history.start[name], history.after[name])}
    assert changed == {name for name in history.start if "proj" in name} and len(changed) == 14


@each_learner
def test_merged_model_and_adapter_agree_with_the_weights_that_are_synced(way, history_of, tied_model) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    history = history_of(way)
    merged = AutoModelForCausalLM.from_pretrained(history.folder / "model")
    assert_equal(dict(merged.named_parameters()), history.after)
    assert merged.config.tie_word_embeddings
    base = AutoModelForCausalLM.from_pretrained(tied_model)
    adapted = PeftModel.from_pretrained(base, history.folder / "adapter")
    groups, _ = make_groups(4)
    with torch.no_grad():
        for prompt, completion in ((g.prompt.token_ids, c.token_ids) for g in groups for c in g.completions_G):
            one, other = logprobs_of(merged, prompt, completion), logprobs_of(adapted, prompt, completion)
            assert (one - other).abs().max() < 1e-4
            with adapted.disable_adapter():
                assert (logprobs_of(adapted, prompt, completion) - one).abs().max() > 1e-2


@each_way
def test_a_resumed_learner_goes_on_exactly(way, history_of) -> None:
    history = history_of(way)
    assert_equal(history.resumed, history.after)
    assert history.resumed_gone_on.metrics["learner/loss"] == history.gone_on.metrics["learner/loss"]
    assert_equal(history.resumed_gone_on.weights, history.gone_on.weights)
    assert any(not torch.equal(history.gone_on.weights[name], history.after[name]) for name in history.after)


@each_way
def test_a_checkpoint_holds_the_adapter_alone(way, history_of, tied_model) -> None:
    """Adapter and two moments, in float32, each once, whatever rank has them."""
    from safetensors.torch import load_file

    folder = history_of(way).folder / "checkpoint"
    shards = [load_file(file) for file in folder.glob("*.safetensors")]
    assert all(".lora_A." in key or ".lora_B." in key for shard in shards for key in shard)
    num_elements = sum(tensor.numel() for shard in shards for tensor in shard.values())
    adapter = load_file(folder.parent / "adapter" / "adapter_model.safetensors")
    assert num_elements == 3 * sum(tensor.numel() for tensor in adapter.values())


def test_an_adapter_goes_on_beside_its_own_model_only(history_of, tied_model, tmp_path) -> None:
    """One bit of one weight tells: a base that is nearly the same is another base."""
    history = history_of("accelerate")
    shutil.copytree(tied_model, tmp_path / "model")
    learner = started("accelerate", tmp_path / "model")
    learner.load_checkpoint(history.folder / "checkpoint")
    learner.close()
    file = tmp_path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    learner = started("accelerate", tmp_path / "model")
    with pytest.raises(UsageError, match=r"^model\.path=.*: is another model than the one that the adapter in "):
        learner.load_checkpoint(history.folder / "checkpoint")
    learner.close()


@pytest.mark.parametrize("lora", [None, {"rank": 2 * RANK, "alpha": ALPHA}, {"rank": RANK, "alpha": 2 * ALPHA}])
def test_another_adapter_or_none_refuses_the_checkpoint(history_of, tied_model, lora) -> None:
    learner = started("accelerate", tied_model, lora=lora)
    with pytest.raises(UsageError, match=r"^learner \(lora\)="):
        learner.load_checkpoint(history_of("accelerate").folder / "checkpoint")
    learner.close()


def test_the_folder_of_the_adapter_says_what_it_belongs_to(history_of, tied_model) -> None:
    config = json.loads((history_of("accelerate").folder / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (RANK, ALPHA, 0.0)
    assert config["base_model_name_or_path"] == str(tied_model)
    assert sorted(config["target_modules"]) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
