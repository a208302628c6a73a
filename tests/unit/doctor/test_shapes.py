"""Sizes from config.json, against the tensors of transformers' own models."""

import json
import math

import pytest

from insight_rl.config import compose_config
from insight_rl.doctor.shapes import PUBLISHED, count_all, find_config, meta_tensors, read_shape
from insight_rl.errors import UsageError
from insight_rl.model_folder import count_parameters
from insight_rl.paths import conf_dir, data_dir

PARAMETERS = {
    "Qwen--Qwen3-0.6B": 596_049_920,
    "Qwen--Qwen3-1.7B": 1_720_574_976,
    "Qwen--Qwen3-4B": 4_022_468_096,
    "deepseek-ai--DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "HuggingFaceTB--SmolLM2-135M-Instruct": 134_515_008,
}
"""As the hub counts them in the models' safetensors files."""


@pytest.mark.parametrize("file", sorted(PUBLISHED.glob("*.json")), ids=lambda file: file.stem)
def test_a_published_model_has_the_tensors_that_transformers_builds(file):
    config = json.loads(file.read_text())
    shape = read_shape(config)
    assert shape.is_counted
    short = config | {"num_hidden_layers": 1}
    assert sorted(read_shape(short).tensors()) == sorted(meta_tensors(short))
    count = count_all(shape, file.stem.replace("--", "/"))
    assert count.total == PARAMETERS[file.stem]
    assert count.largest == shape.vocab_size * shape.hidden_size


def test_every_model_of_the_configuration_is_known_without_a_network():
    for option in sorted((conf_dir() / "model").glob("*.yaml")):
        path = compose_config([f"model={option.stem}"]).model.path
        assert read_shape(find_config(path)) is not None, path


def test_the_bundled_model_is_counted_as_its_weights_are():
    folder = data_dir() / "tiny_countdown"
    assert count_all(read_shape(find_config(str(folder))), str(folder)).total == count_parameters(folder)


def test_another_family_is_counted_from_tensors_without_memory():
    config = {
        "model_type": "gemma",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": 500,
    }
    shape = read_shape(config)
    assert not shape.is_counted and shape.is_tied
    layer = 64 * 16 * (2 * 4 + 2 * 1) + 3 * 64 * 96 + 2 * 64
    assert count_all(shape, "nobody/gemma").total == 500 * 64 + 2 * layer + 64
    assert math.prod(max(meta_tensors(config), key=math.prod)) == 500 * 64


def test_a_model_with_a_part_for_text_is_that_part():
    inner = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 9,
    }
    shape = read_shape({"model_type": "many_eyes", "text_config": inner})
    assert (shape.family, shape.hidden_size, shape.num_kv_heads, shape.head_dim) == ("qwen3", 64, 4, 16)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", [None, "64", -1, True, 1e3])
def test_what_names_no_size_is_not_guessed(missing, value):
    config = json.loads((PUBLISHED / "Qwen--Qwen3-0.6B.json").read_text())
    assert read_shape(config | {missing: value}) is None


def test_a_model_that_nobody_knows_here_is_none():
    assert find_config("nobody/nothing") is None
    assert find_config("../published/Qwen--Qwen3-4B") is None
    assert find_config("nothing") is None


@pytest.mark.parametrize("text", ["{", "[1]", '"a"', "\udcff"])
def test_a_broken_file_is_named(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"config\.json: (cannot be read|is no mapping)"):
        find_config(str(tmp_path))


def test_an_endless_file_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(UsageError, match="no model's config"):
        find_config(str(tmp_path))


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    with pytest.raises(UsageError, match="transformers builds no model from it"):
        list(meta_tensors(config))
