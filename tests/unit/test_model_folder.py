"""A model's folder is looked into before anything loads it."""

import json

import pytest

from insight_rl.errors import UsageError
from insight_rl.model_folder import INDEX, count_parameters, fingerprint


def test_parameters_are_counted_from_the_headers(tied_model):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tied_model, dtype=torch.float32)
    assert count_parameters(tied_model) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None], ids=["empty", "garbage", "cut short"])
def test_damaged_weights_are_named(content, tied_model, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes((tied_model / "model.safetensors").read_bytes()[:100_000] if content is None else content)
    with pytest.raises(UsageError, match=r"model\.safetensors: not a whole safetensors file .*copy the model again"):
        count_parameters(tmp_path)


def test_missing_weights_say_what_to_do(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match=r"no weights \(\*\.safetensors\).*can run code"):
        count_parameters(tmp_path)


@pytest.mark.parametrize("content", [{"weight_map": {"a": "model-1.safetensors"}}, {}, [], "{oops"])
def test_an_index_that_does_not_hold(content, tmp_path):
    (tmp_path / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError, match="copy the model again"):
        count_parameters(tmp_path)


def test_an_index_leads_to_no_file_elsewhere(tied_model, tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": str(tied_model / "model.safetensors")}}))
    with pytest.raises(UsageError, match="is missing"):
        count_parameters(tmp_path)


def test_a_fingerprint_is_of_the_weights_and_of_nothing_else(tied_model, untied_model, tmp_path):
    import shutil

    shutil.copytree(tied_model, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert fingerprint(tmp_path / "copy") == fingerprint(tied_model) != fingerprint(untied_model)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_fingerprint_sees_a_changed_tensor(place, tmp_path):
    """A model trained further differs in all its entries; here only a few at one place do."""
    import numpy as np
    from safetensors.numpy import save_file

    weights = np.zeros((100, 1000), dtype=np.float32)
    save_file({"a": weights}, tmp_path / "model.safetensors")
    before = fingerprint(tmp_path)
    weights.ravel()[{"start": 0, "middle": 50_000, "end": -1}[place]] = 1.0
    save_file({"a": weights}, tmp_path / "model.safetensors")
    assert fingerprint(tmp_path) != before
