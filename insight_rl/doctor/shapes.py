"""A model's sizes from its ``config.json``: counted for decoders of the Llama kind, else from tensors without memory.

Nothing is downloaded. A folder's own ``config.json`` comes first, then the facts of published models that lie in
``published/``, then a copy that the hub's cache already has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError
from insight_rl.model_folder import count_parameters

PUBLISHED = Path(__file__).parent / "published"
"""``owner--name.json``: those keys of a published model's ``config.json`` that sizes follow from."""

_MAX_CONFIG_BYTES = 1 << 20
_COUNTED = ("llama", "mistral", "qwen2", "qwen3")
"""Families of which every tensor is known here; a test compares them with transformers' own models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder that memory and time follow from.

    Example: Qwen3-0.6B is ``ModelShape(family="qwen3", vocab_size=151936, hidden_size=1024, num_layers=28,
    num_heads=16, num_kv_heads=8, head_dim=128, intermediate_size=3072, is_tied=True)``.
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    is_tied: bool
    """Whether the embedding is the output head too."""
    has_attention_bias: bool = False
    config: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_counted(self) -> bool:
        """Whether :meth:`tensors` knows this family; the sizes of others come from :func:`meta_tensors`."""
        return self.family in _COUNTED

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normalised, head by head."""
        return self.family == "qwen3"

    def layer_matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of one decoder layer: (outputs, inputs) by name."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (queries, hidden),
            "k_proj": (keys, hidden),
            "v_proj": (keys, hidden),
            "o_proj": (hidden, queries),
            "gate_proj": (inner, hidden),
            "up_proj": (inner, hidden),
            "down_proj": (hidden, inner),
        }

    def tensors(self) -> Iterator[tuple[int, ...]]:
        """The shape of every tensor, a tied head left out."""
        yield (self.vocab_size, self.hidden_size)
        for _ in range(self.num_layers):
            yield from self.layer_matrices().values()
            if self.has_attention_bias:
                yield from ((size,) for name, (size, _) in self.layer_matrices().items() if name[0] in "qkv")
            if self.has_head_norms:
                yield from ((self.head_dim,), (self.head_dim,))
            yield from ((self.hidden_size,), (self.hidden_size,))
        yield (self.hidden_size,)
        if not self.is_tied:
            yield (self.vocab_size, self.hidden_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """``total`` parameters, ``largest`` of them in one tensor."""

    total: int
    largest: int


def count_all(shape: ModelShape, model_path: str) -> ParameterCount:
    """How many parameters the model has, and its largest tensor.

    Of a family that is not counted here: as its weights say, if they are at hand, else by :func:`meta_tensors`.
    """
    folder = Path(model_path).expanduser()
    if not shape.is_counted and folder.is_dir() and any(folder.glob("*.safetensors")):
        return ParameterCount(total=count_parameters(folder), largest=shape.vocab_size * shape.hidden_size)
    sizes = [math.prod(each) for each in (shape.tensors() if shape.is_counted else meta_tensors(shape.config))]
    return ParameterCount(total=sum(sizes), largest=max(sizes))


def find_config(model_path: str, *, revision: str | None = None) -> dict[str, Any] | None:
    """What ``config.json`` says of ``model.path``; ``None`` for a model that nothing here knows of.

    ``revision``: which one in the hub's cache; the sizes of the models of conf/ are the same in all of them.

    Raises ``UsageError`` for a file that cannot be read.
    """
    folder = Path(model_path).expanduser()
    if folder.is_dir():
        return _read(folder / "config.json") if (folder / "config.json").is_file() else None
    published = PUBLISHED / f"{model_path.replace('/', '--')}.json"
    if published.parent == PUBLISHED and published.is_file():
        return _read(published)
    if model_path.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model_path, "config.json", revision=revision)
    return _read(Path(cached)) if isinstance(cached, str) else None


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise UsageError(f"{file}: has more than {_MAX_CONFIG_BYTES} bytes; this is no model's config.json")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); copy the model again from its source") from error
    if not isinstance(config, dict):
        raise UsageError(f"{file}: is no mapping; copy the model again from its source")
    return config


def read_shape(config: Mapping[str, Any]) -> ModelShape | None:
    """The sizes that ``config.json`` names; ``None`` where it lacks one."""
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, Mapping) else config
    family = str(inner.get("model_type", config.get("model_type", "unknown")))
    sizes = {
        key: _size(inner.get(key)) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    }
    hidden, layers, heads, vocabulary = sizes.values()
    if not (hidden and layers and heads and vocabulary):
        return None
    return ModelShape(
        family=family,
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=_size(inner.get("num_key_value_heads")) or heads,
        head_dim=_size(inner.get("head_dim")) or max(1, hidden // heads),
        intermediate_size=_size(inner.get("intermediate_size")) or 4 * hidden,
        is_tied=bool(inner.get("tie_word_embeddings", config.get("tie_word_embeddings", family not in _COUNTED))),
        has_attention_bias=family == "qwen2" or bool(inner.get("attention_bias", False)),
        config=config,
    )


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40 else None


def meta_tensors(config: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    """The shape of every tensor of transformers' own model, built without memory. Takes seconds the first time.

    Code that comes with a model is not run. Raises ``UsageError`` for an architecture that transformers does not know.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
    try:
        parsed = AutoConfig.for_model(config.get("model_type", ""), **settings)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(parsed, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the model's config.json: transformers builds no model from it ({str(error).splitlines()[0]}); the doctor "
            "cannot tell what it takes"
        ) from error
    for parameter in model.parameters():
        yield tuple(parameter.shape)
