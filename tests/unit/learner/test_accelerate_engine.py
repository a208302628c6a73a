from __future__ import annotations

import dataclasses

import pytest
import torch

from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.errors import UsageError
from insight_rl.learner import accelerate_engine, attention
from insight_rl.learner.accelerate_engine import AccelerateEngine
from insight_rl.learner.models import load_policy
from insight_rl.learner.settings import LearnerSettings, StartSpec
from insight_rl.learner.worker import RankWorker

SETTINGS = LearnerSettings(lr=1e-3, weight_decay=0.0, max_grad_norm=None, tokens_per_micro_batch=100, attention="sdpa")


def spec_of(model_path, dtype: str) -> StartSpec:
    return StartSpec(
        model_path=model_path,
        dtype=dtype,
        loss=LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2),
        num_epochs=1,
        temperature=1.0,
        max_completion_tokens=8,
        prompts_per_update=1,
        num_steps=1,
        seed=0,
    )


def started(model_path, dtype: str) -> AccelerateEngine:
    engine = AccelerateEngine(SETTINGS)
    facts = RankWorker(engine).start(spec_of(model_path, dtype))
    assert facts.can_share_prompts
    assert facts.hidden_size == 64
    return engine


def test_bfloat16_computes_in_half_precision_over_float32_weights(tied_model) -> None:
    engine = started(tied_model, "bfloat16")
    assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.float32}
    assert {tensor.dtype for _, tensor in engine.named_tensors()} == {torch.bfloat16}
    seen: list[torch.dtype] = []
    matrix = engine.model.model.layers[1].mlp.down_proj
    handle = matrix.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    ids = torch.tensor([[5, 6, 7, 8]])
    logprobs, _ = engine.scorer(
        input_ids=ids,
        segments=None,
        positions=None,
        sources_N=torch.tensor([1, 2]),
        targets_N=torch.tensor([7, 8]),
    )
    handle.remove()
    assert seen == [torch.bfloat16]
    assert logprobs.dtype == torch.float32


def test_one_process_may_hold_learners_of_different_precision(tied_model) -> None:
    one, other = started(tied_model, "float32"), started(tied_model, "bfloat16")
    assert one.dtype == torch.float32 and other.dtype == torch.bfloat16


def test_layers_have_no_dropout_even_when_they_recompute(tied_model) -> None:
    model = load_policy(tied_model, torch.float32, gradient_checkpointing=True)
    training = [name for name, module in model.named_modules() if module.training]
    assert training == ["model.layers.0", "model.layers.1"]


def test_sliding_windows_forbid_sharing_prompts() -> None:
    from transformers import LlamaConfig, MistralConfig, Qwen3Config

    from insight_rl.learner.attention import attends_fully

    assert attends_fully(LlamaConfig())
    assert attends_fully(Qwen3Config())
    assert not attends_fully(MistralConfig(sliding_window=64))
    assert not attends_fully(Qwen3Config(layer_types=["full_attention", "sliding_attention"] * 16))


def test_models_that_do_more_to_their_logits_run_whole(tmp_path) -> None:
    """Gemma 2 caps its logits after the head: seen by trying, not by name."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        final_logit_softcapping=2.0,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    engine = AccelerateEngine(SETTINGS)
    facts = RankWorker(engine).start(spec_of(tmp_path, "float32"))
    assert not engine._scorer.calls_head
    assert not facts.can_share_prompts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_reference_takes_no_more_than_the_precision_it_computes_in(tied_model, monkeypatch, dtype) -> None:
    """Its weights never change, so float32 ones would only double their memory."""
    engine = started(tied_model, dtype)
    loaded: list[torch.dtype] = []

    def load(*arguments, **settings):
        model = load_policy(*arguments, **settings)
        loaded.extend(parameter.dtype for parameter in model.parameters())
        return model

    monkeypatch.setattr(accelerate_engine, "load_policy", load)
    reference = engine.load_reference()
    assert set(loaded) == {getattr(torch, dtype)}
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 8]]),
        "segments": None,
        "positions": None,
        "sources_N": torch.tensor([1, 2]),
        "targets_N": torch.tensor([7, 8]),
    }
    with torch.no_grad():
        gap = (reference(**inputs)[0] - engine.scorer(**inputs)[0]).abs().max()
    assert gap < (1e-6 if dtype == "float32" else 0.05)


def test_an_architecture_is_tried_with_the_kernel_that_is_asked_for(tied_model, monkeypatch) -> None:
    """A kernel that gives other numbers is refused at the start."""
    settings = dataclasses.replace(SETTINGS, attention="flash")
    facts = RankWorker(AccelerateEngine(settings)).start(spec_of(tied_model, "float32"))
    assert facts.kernel == "flash" and facts.can_share_prompts
    attend = attention.packed_attention

    def backwards(module, query, key, value, *arguments, **settings):
        return attend(module, query, key.flip(2), value.flip(2), *arguments, **settings)

    monkeypatch.setattr(attention, "packed_attention", backwards)
    with pytest.raises(UsageError, match=r"learner\.attention='flash': .* log-probs differ from those of sdpa"):
        RankWorker(AccelerateEngine(settings)).start(spec_of(tied_model, "float32"))


def test_no_dense_mask_is_made_where_the_device_is_no_cpu(tied_model, monkeypatch) -> None:
    """Shared prompts under sdpa need one, so that a GPU computes them row by row."""
    engine = AccelerateEngine(SETTINGS)
    engine.start(spec_of(tied_model, "float32"))
    worker = RankWorker(engine)
    assert worker._probe(24)
    asked: list[bool] = []
    scorer = engine._scorer
    scorer.register_forward_pre_hook(
        lambda module, arguments, inputs: asked.append(inputs["segments"] is not None), with_kwargs=True
    )
    # The tensors stay where they are; only what the worker is told of the device changes.
    batches = worker._copy

    def copy(batch):
        engine.device = torch.device("cpu")
        laid_out = batches(batch)
        engine.device = torch.device("meta")
        return laid_out

    monkeypatch.setattr(worker, "_copy", copy)
    engine.device = torch.device("meta")
    assert not worker._probe(24)
    assert asked and not any(asked)
