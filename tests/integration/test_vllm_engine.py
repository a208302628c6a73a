"""The vLLM engine beyond the contract: weight sync in its variants, its processes, its errors."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch._dynamo
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from insight_rl.learner.lora import describe_weights
from insight_rl.process_table import family_of
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.pool import WorkerLost
from insight_rl.rollout.vllm import VllmEngine
from insight_rl.rollout.vllm_worker import RefusedError, _Worker
from insight_rl.types import Prompt, Sampling
from insight_rl.weight_sync.base import SyncSeconds

pytestmark = pytest.mark.slow

PROMPTS = [
    Prompt(
        id=f"prompt/{i}", task="toy", text="", token_ids=(1, *(5 + (3 * i + j) % 20 for j in range(4 + i))), answer=i
    )
    for i in range(8)
]
NO_SETTING = {"engine_args": {"no_such_setting": 1}}
SAMPLING = Sampling(num_rollouts=4, max_tokens=16, temperature=1.0, seed=3)


class ModelWeights:
    """A transformers model as a weight source."""

    def __init__(self, model):
        self.model = model

    def describe(self):
        return describe_weights(self.model, torch.float32)

    def named_tensors(self):
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    def save(self, folder):
        self.model.save_pretrained(folder)
        return SyncSeconds()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def perturb(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def largest_gap(engine, model):
    """Largest distance of the engine's log-probs from those of a plain forward pass of ``model``."""
    gap = 0.0
    for prompt, group in engine.generate(PROMPTS, sampling=SAMPLING):
        for completion in group:
            ids = torch.tensor([[*prompt.token_ids, *completion.token_ids]])
            logprobs = torch.log_softmax(model(ids).logits[0, len(prompt.token_ids) - 1 : -1], dim=-1)
            exact = logprobs.gather(1, ids[0, len(prompt.token_ids) :, None]).squeeze(1)
            gap = max(gap, float((exact - torch.tensor(completion.logprobs)).abs().max()))
    return gap


def check_syncs(engine, model):
    """Three updates in a row, each against the learner's own log-probs."""
    for version in (1, 2, 3):
        perturb(model, seed=version)
        # Fill the cache with prefixes of the old weights: none of them may survive the update.
        assert largest_gap(engine, model) > 1e-2
        engine.update_weights(ModelWeights(model), version=version)
        assert largest_gap(engine, model) <= 1e-4


def test_weights_arrive_with_tied_embeddings(vllm_tied, tied_model):
    """Fails by 0.1 and more without ``pack_embeddings``: vLLM's packed lm_head would keep the first weights."""
    model = load(tied_model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    vllm_tied.update_weights(ModelWeights(model), version=0)
    assert largest_gap(vllm_tied, model) <= 1e-4
    check_syncs(vllm_tied, model)


@pytest.fixture
def qwen3(tied_model, tmp_path):
    """A small model of the paper's family, and its folder; its embeddings are tied in another way inside vLLM."""
    torch.manual_seed(0)
    config = AutoModelForCausalLM.from_pretrained(tied_model).config
    model = Qwen3ForCausalLM(
        Qwen3Config(
            **{
                key: getattr(config, key)
                for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")
            },
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            eos_token_id=2,
            initializer_range=0.15,
        )
    ).eval()
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tied_model / name).read_bytes())
    return model, tmp_path


def test_two_workers_get_the_weights_and_end_with_the_process_whose_death_is_noticed(qwen3, monkeypatch):
    """As on GPUs: the engine core is a process of its own, and so is each of two tensor-parallel workers (gloo)."""
    model, folder = qwen3
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    engine = VllmEngine(num_threads=1, tensor_parallel_size=2, max_replaced_workers=0)
    try:
        engine.start(RolloutSpec(model_path=folder, dtype="float32", max_length=64, seed=0))
        check_syncs(engine, model)
        process = engine._pool.workers[0]
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in family_of(process.pid)[1:]}
        (core,) = [pid for pid, command in commands.items() if "EngineCore" in command]
        assert len([pid for pid, command in commands.items() if "Worker_TP" in command]) == 2
        maps = [line for pid in commands for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        shared = {line.split()[5] for line in maps if "/dev/shm/" in line and "(deleted)" not in line}
        stacks = process._child.dump_stacks()
        assert f"process {core}, state" in stacks and "run_engine_core" in stacks
        # A core that is stopped neither answers nor notices.
        os.kill(core, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (process.pid, signal.SIGKILL)).start()
        with pytest.raises(WorkerLost, match=r"rollout worker 0 died in generate \(killed by SIGKILL\)"):
            list(engine.generate(PROMPTS, sampling=SAMPLING))
        deadline = time.monotonic() + 60
        left = [Path(f"/proc/{pid}") for pid in commands] + [Path(name) for name in shared]
        while any(path.exists() for path in left) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [path for path in left if path.exists()] == []
    finally:
        engine.close()


@pytest.mark.xdist_group("vllm")
@pytest.mark.parametrize(("changes", "reason"), [({"sleep": True}, r"rollout\.sleep=True"), (NO_SETTING, "no_such")])
def test_settings_that_vllm_refuses(changes, reason, tied_model, monkeypatch):
    """In this process, where vLLM is imported already; how its reason reaches the user is tested in unit/rollout."""
    if torch.cuda.is_available():
        pytest.skip("vLLM can sleep on this device")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    start = {"model_path": str(tied_model), "dtype": "float32", "max_length": 64, "seed": 0}
    arguments = start | {"sleep": False, "shares_gpu": True, "transfer_backend": None, "engine_args": {}} | changes
    with torch._dynamo.config.patch(disable=True), pytest.raises(RefusedError, match=reason):
        next(_Worker().start(**arguments))


def test_the_order_and_company_of_prompts_do_not_matter(vllm_tied, tied_model):
    """Seeds hang on the prompt's id, not on its place; in float32 rounding does not show on this model."""
    vllm_tied.update_weights(ModelWeights(load(tied_model)), version=0)
    together = {prompt.id: group for prompt, group in vllm_tied.generate(PROMPTS, sampling=SAMPLING)}
    alone = {}
    for prompt in reversed(PROMPTS):
        ((_, alone[prompt.id]),) = vllm_tied.generate([prompt], sampling=SAMPLING)
    for key, group in together.items():
        assert [c.token_ids.tolist() for c in group] == [c.token_ids.tolist() for c in alone[key]]
