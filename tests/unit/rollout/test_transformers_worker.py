"""A worker of rollout=transformers_workers in this process, by the messages that it gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from insight_rl.errors import UsageError
from insight_rl.learner.models import write_weights
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.transformers_worker import make_worker
from insight_rl.rollout.transformers_workers import TransformersWorkers
from insight_rl.rollout.vllm_worker import Request
from insight_rl.weight_sync.vllm_transfer import IpcChannel


@pytest.fixture(scope="module")
def model_path(tied_model):
    return tied_model


def started(model_path):
    worker = make_worker()
    (facts,) = worker.start(model_path=str(model_path), dtype="float32", max_length=64, seed=0)
    assert (facts.device, facts.num_devices) == ("cpu", 1) and facts.num_cache_tokens > 64
    return worker


def request(number, *tokens):
    return Request(
        prompt_id=f"p{number}",
        token_ids=[1, 5 + number, *tokens],
        num_rollouts=3,
        max_tokens=6,
        temperature=1.0,
        top_p=1.0,
        seed=40 + number,
        stop_token_ids=[2, 4],
    )


def run(worker, requests):
    """Samples by key, whatever is asked for together; and the version that each of them carries."""
    list(worker.generate(requests=requests))
    found, versions = {}, set()
    while worker.is_generating:
        for key, samples, version in worker.step():
            found[key] = [(tuple(each.token_ids), each.logprobs.tobytes(), each.finish_reason) for each in samples]
            versions.add(version)
    return found, versions


def test_rollouts_do_not_depend_on_what_else_is_asked_for_nor_on_the_worker(model_path):
    one, other = started(model_path), started(model_path)
    requests = {key: request(key) for key in range(4)}
    together, versions = run(one, requests)
    assert versions == {0} and together.keys() == requests.keys()
    for key in reversed(range(4)):
        assert run(other, {key: requests[key]})[0] == {key: together[key]}
    list(one.generate(requests=requests))
    list(one.abort())
    assert not one.is_generating


def test_new_weights_are_taken_and_need_their_version(model_path, tmp_path):
    worker = started(model_path)
    before, _ = run(worker, {0: request(0)})
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    write_weights(((name, parameter.detach()) for name, parameter in model.named_parameters()), tmp_path)
    list(worker.reload(folder=str(tmp_path)))
    with pytest.raises(RuntimeError, match="has not been told"):
        list(worker.generate(requests={0: request(0)}))
    list(worker.set_version(version=7))
    after, versions = run(worker, {0: request(0)})
    assert versions == {7} and after != before
    with pytest.raises(RuntimeError, match="no weights have arrived since version 7"):
        list(worker.set_version(version=8))
    samples = np.concatenate([np.frombuffer(logprobs, np.float32) for _, logprobs, _ in after[0]])
    assert (samples <= 0).all()


def test_a_channel_that_is_made_for_vllm_is_refused(model_path):
    engine = TransformersWorkers()
    spec = RolloutSpec(model_path=model_path, dtype="float32", max_length=64, seed=0, weight_channel=IpcChannel())
    with pytest.raises(UsageError, match=r"weight_sync='IpcChannel': is for vLLM; rollout=transformers_workers takes"):
        engine.start(spec)
