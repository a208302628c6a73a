"""Small models with random weights, and the engines that are too slow to start once a test."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

EOS_TOKEN_IDS = (2, 4)
"""Of the models below: the tokenizer's own, and one that only the generation config knows."""
VOCABULARY = ["<pad>", "<bos>", "<eos>", "<unk>", "<end>", *"0123456789+-*/()=,: "]


def pytest_configure():
    """Whoever runs the tests under nohup or in the background of a script hands ignored signals down to all of them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Fast tests first: what they find waits for no engine. One process runs all that share the vLLM engine.

    Those that start one of their own, or import vLLM, say so by themselves.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    for item in items:
        if "vllm_tied" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("vllm"))


@pytest.fixture(scope="session", autouse=True)
def compose_once():
    """Hydra takes half a second to compose a configuration, and many tests ask for the same: each gets a copy."""
    from insight_rl import config

    compose, composed = config._compose_named, {}

    def compose_or_copy(overrides, config_name):
        if any("searchpath" in override for override in overrides):  # a folder that a test may change
            return compose(overrides, config_name)
        key = (*overrides, config_name)
        if key not in composed:
            composed[key] = compose(overrides, config_name)
        return copy.deepcopy(composed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "_compose_named", compose_or_copy)
        yield


@pytest.fixture
def allow_folder(monkeypatch):
    """``allow_folder(folder)``: its modules may be named in a configuration, as those of a --config-dir."""
    from insight_rl.allowed_code import allowed

    def allow(folder: Path) -> None:
        monkeypatch.setattr(allowed, "folders", allowed.folders | {folder.resolve()})
        monkeypatch.syspath_prepend(folder)

    return allow


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory) -> Path:
    """A Llama of 0.3M parameters whose ``lm_head`` is the embedding."""
    return _make_llama(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory) -> Path:
    return _make_llama(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="session")
def vllm_tied(tied_model):
    """The vLLM engine on ``tied_model``; whoever changes its weights says which ones he needs."""
    from insight_rl.rollout.base import RolloutSpec
    from insight_rl.rollout.vllm import VllmEngine

    engine = VllmEngine(num_threads=1)
    engine.start(RolloutSpec(model_path=tied_model, dtype="float32", max_length=64, seed=0))
    yield engine
    engine.close()


def _make_llama(folder: Path, *, tied: bool) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            # vLLM's CPU attention takes 32, 64, ...
            head_dim=32,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=EOS_TOKEN_IDS[0],
            # Wide enough for a policy that is far from uniform.
            initializer_range=0.15,
        )
    )
    model.generation_config.eos_token_id = list(EOS_TOKEN_IDS)
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


def _save_tokenizer(folder: Path) -> None:
    """One token a character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def start_service():
    """``start_service(data_dir, *arguments)`` runs the selector service on a free port: its process and its URL."""
    processes = []

    def start(data_dir: Path, *arguments: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "insight_rl", "serve-selector", "--data-dir", str(data_dir), "--port", "0"]
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        return process, line.split("http://")[1].split("/")[0].join(["http://", ""])

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
