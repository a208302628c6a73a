"""What is kept for the backward pass, against torch's own account of it on a CPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from insight_rl.doctor import activations
from insight_rl.doctor.activations import count_activations, layer_bytes
from insight_rl.doctor.shapes import read_shape
from insight_rl.learner import head
from insight_rl.learner.lora import add_adapter
from insight_rl.learner.models import set_policy_mode
from insight_rl.learner.settings import LoraSettings

MODELS = {
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 176,
        "vocab_size": 1000,
        "tie_word_embeddings": True,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 256,
        "vocab_size": 500,
        "tie_word_embeddings": True,
    },
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 112,
        "vocab_size": 800,
        "tie_word_embeddings": False,
    },
}
"""Small, and unlike each other: norms of queries and keys, grouped heads, biases, a head of its own."""

PRECISIONS = ("bfloat16", "float32", "autocast")


def build(name: str, precision: str, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = MODELS[name] | changes
    config = AutoConfig.for_model(**settings)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    set_policy_mode(model)
    return model, read_shape(settings)


def kept_bytes(model, run, *, precision: str) -> int:
    """Bytes that ``run`` keeps for its backward pass: storages once, and none that belong to the model.

    With autocast the model's weights are converted; the copies are recognised by their shapes and left out.
    """
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters()} | {
        tuple(p.T.shape) for p in model.parameters() if p.dim() == 2
    }
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_copy = precision == "autocast" and tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes
        if storage._cdata not in own and not is_copy:
            kept[storage._cdata] = storage
        return tensor

    context = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "autocast" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        run()
    return sum(storage.nbytes() for storage in kept.values())


def count(shape, *, tokens: int, precision: str, gradient_checkpointing: bool) -> int:
    return count_activations(
        shape,
        tokens=tokens,
        completion_tokens=1,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        num_parameters=0,
    ).kept


@pytest.mark.parametrize("length", [37, 331])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_what_the_layers_keep(name, precision, length):
    model, shape = build(name, precision)
    counted = count(shape, tokens=2 * length, precision=precision, gradient_checkpointing=False)
    assert counted == pytest.approx(kept_by_layers(model, precision, length), rel=0.10)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_kept_with_checkpointing(name, precision, length=131):
    """The layers' inputs from the forward pass, and one layer's worth as the backward pass computes it again."""
    model, shape = build(name, precision)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    set_policy_mode(model)
    kept = kept_by_layers(model, precision, length)
    # torch sees no tensors that a checkpointed function closes over: the rotation, which all layers share.
    stream = 2 if precision == "bfloat16" else 4
    kept += 2 * stream * shape.head_dim * length
    counted = count(shape, tokens=2 * length, precision=precision, gradient_checkpointing=True)
    assert counted == pytest.approx(kept + one_layer(name, precision, length), rel=0.10)


def kept_by_layers(model, precision: str, length: int) -> int:
    ids = torch.zeros(2, length, dtype=torch.long)
    return kept_bytes(model, lambda: model.base_model(input_ids=ids, use_cache=False), precision=precision)


def one_layer(name: str, precision: str, length: int) -> int:
    """Bytes that one layer keeps without checkpointing: what the second of two adds."""
    one, two = (build(name, precision, num_hidden_layers=number)[0] for number in (1, 2))
    return kept_by_layers(two, precision, length) - kept_by_layers(one, precision, length)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_layer_by_itself(name, precision):
    _, shape = build(name, precision)
    assert 2 * 51 * layer_bytes(shape, precision) == pytest.approx(one_layer(name, precision, 51), rel=0.03)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_a_layer_with_an_adapter(name, precision):
    sizes = []
    for num_layers in (1, 2):
        model, shape = build(name, precision, num_hidden_layers=num_layers)
        add_adapter(model, LoraSettings(rank=8, alpha=16), seed=0, dtype=model.dtype)
        sizes.append(kept_by_layers(model, precision, 51))
    counted = 2 * 51 * layer_bytes(shape, precision, adapter_rank=8)
    assert counted == pytest.approx(sizes[1] - sizes[0], rel=0.03)


HEADS = [
    ("bfloat16", "auto"),
    ("bfloat16", "float32"),
    ("float32", "auto"),
    ("autocast", "auto"),
]


@pytest.mark.parametrize("num_tokens", [100, 700])
@pytest.mark.parametrize(("precision", "head_dtype"), HEADS)
def test_what_the_head_holds_at_most(precision, head_dtype, num_tokens, monkeypatch):
    """Forward and backward under torch's memory tracker; the chunks are small, so that there are several."""
    for name, value in (("LOGITS_PER_CHUNK", 2**19), ("LOGITS_PER_BLOCK", 2**16)):
        monkeypatch.setattr(activations, name, value)
    monkeypatch.setattr(head, "LOGITS_PER_CHUNK", 2**19)
    monkeypatch.setitem(head._LOGITS_PER_BLOCK, "cpu", 2**16)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    linear = torch.nn.Linear(64, 3000, bias=False, dtype=dtype)
    hidden_N_h = torch.randn(num_tokens, 64, dtype=dtype, requires_grad=True)
    targets_N = torch.zeros(num_tokens, dtype=torch.long)
    tracker = MemTracker()
    tracker.track_external(linear)
    tracker.track_external(hidden_N_h)
    with tracker:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
            score = head.SelectedLogprobs(temperature=0.9, head_dtype=head_dtype)
            logprobs_N, _ = score(hidden_N_h, targets_N, linear)
        logprobs_N.sum().backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - linear.weight.nbytes
    shape = read_shape(MODELS["llama"] | {"hidden_size": 64, "vocab_size": 3000})
    counted = activations.head_bytes(shape, num_tokens, precision=precision, head_dtype=head_dtype)
    assert counted == pytest.approx(peak, rel=0.10)


def test_the_head_is_cut_as_the_learner_cuts_it():
    assert activations.LOGITS_PER_CHUNK == head.LOGITS_PER_CHUNK
    assert head._LOGITS_PER_BLOCK["cuda"] == activations.LOGITS_PER_BLOCK
