"""The output head against float64 and autograd; what it holds and computes."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from insight_rl.errors import UsageError
from insight_rl.learner import head as head_module
from insight_rl.learner.head import SelectedLogprobs, check_head, check_plain_head
from insight_rl.learner.settings import LearnerSettings

N, HIDDEN, VOCABULARY = 11, 16, 40


def make_case(dtype: torch.dtype, *, bias: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear]:
    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=bias).to(dtype)
    hidden = (3 * torch.randn(N, HIDDEN)).to(dtype).requires_grad_()
    return hidden, torch.randint(VOCABULARY, (N,)), head


def plain(
    hidden: torch.Tensor, targets: torch.Tensor, head: torch.nn.Linear, temperature: float, slopes: torch.Tensor
) -> list[torch.Tensor]:
    """Log-probs, entropies and gradients in float64, all logits at once."""
    hidden = hidden.detach().double().requires_grad_()
    weights = [parameter.detach().double().requires_grad_() for parameter in head.parameters()]
    distribution = torch.distributions.Categorical(logits=torch.nn.functional.linear(hidden, *weights) / temperature)
    logprobs = distribution.log_prob(targets)
    return [
        logprobs.detach(),
        distribution.entropy().detach(),
        *torch.autograd.grad((logprobs * slopes).sum(), [hidden, *weights]),
    ]


def found(module: SelectedLogprobs, hidden, targets, head, slopes) -> list[torch.Tensor]:
    logprobs, entropies = module(hidden, targets, head)
    assert logprobs.dtype == entropies.dtype == torch.float32
    assert not entropies.requires_grad
    gradients = torch.autograd.grad((logprobs * slopes).sum(), [hidden, *head.parameters()])
    return [logprobs.detach(), entropies, *gradients]


def errors(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> list[float]:
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens_per_chunk", [1, 4, N])
@pytest.mark.parametrize("tokens_per_block", [1, 3])
def test_equals_float64(monkeypatch, temperature, bias, tokens_per_chunk, tokens_per_block) -> None:
    monkeypatch.setattr(head_module, "LOGITS_PER_CHUNK", tokens_per_chunk * VOCABULARY)
    monkeypatch.setitem(head_module._LOGITS_PER_BLOCK, "cpu", tokens_per_block * VOCABULARY)
    hidden, targets, head = make_case(torch.float32, bias=bias)
    slopes = torch.linspace(-1, 1, N)
    ours = found(SelectedLogprobs(temperature=temperature), hidden, targets, head, slopes)
    assert max(errors(ours, plain(hidden, targets, head, temperature, slopes))) < 1e-6


def test_backward_may_run_twice(monkeypatch) -> None:
    """The first run writes its gradient over the logits that were kept."""
    hidden, targets, head = make_case(torch.float32)
    logprobs, _ = SelectedLogprobs(temperature=1.0)(hidden, targets, head)
    first = torch.autograd.grad(logprobs.sum(), [hidden, head.weight], retain_graph=True)
    second = torch.autograd.grad(logprobs.sum(), [hidden, head.weight])
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_impossible_tokens_leave_entropy_and_gradient_finite() -> None:
    hidden, targets, head = make_case(torch.float32, bias=True)
    with torch.no_grad():
        head.bias[:3] = -torch.inf
    targets = targets.clamp(min=3)
    logprobs, entropies = SelectedLogprobs(temperature=1.0)(hidden, targets, head)
    (gradient,) = torch.autograd.grad(logprobs.sum(), [hidden])
    assert logprobs.isfinite().all() and entropies.isfinite().all() and gradient.isfinite().all()
    expected = torch.distributions.Categorical(logits=head(hidden)[:, 3:]).entropy()
    assert torch.allclose(entropies, expected, atol=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, targets, head = make_case(torch.float32)
    head.requires_grad_(False)
    logprobs, _ = SelectedLogprobs(temperature=1.0)(hidden, targets, head)
    logprobs.sum().backward()
    assert hidden.grad is not None and head.weight.grad is None


def test_no_tokens_give_no_log_probs() -> None:
    hidden, targets, head = make_case(torch.float32)
    logprobs, entropies = SelectedLogprobs(temperature=1.0)(hidden[:0], targets[:0], head)
    assert logprobs.shape == entropies.shape == (0,)
    logprobs.sum().backward()


def half_precision_error(head_dtype: str) -> float:
    hidden, targets, head = make_case(torch.bfloat16)
    logprobs, _ = SelectedLogprobs(temperature=1.0, head_dtype=head_dtype)(hidden, targets, head)
    return errors([logprobs], plain(hidden, targets, head, 1.0, torch.ones(N))[:1])[0]


def test_head_dtype_float32_multiplies_in_float32() -> None:
    assert half_precision_error("float32") < 1e-6
    assert half_precision_error("auto") > 1e-4


def test_autocast_decides_for_auto_alone() -> None:
    hidden, targets, head = make_case(torch.float32)
    expected = plain(hidden, targets, head, 1.0, torch.ones(N))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        auto = found(SelectedLogprobs(temperature=1.0), hidden, targets, head, torch.ones(N))
        full = found(SelectedLogprobs(temperature=1.0, head_dtype="float32"), hidden, targets, head, torch.ones(N))
    assert max(errors(full, expected)) < 1e-6
    assert 1e-4 < max(errors(auto, expected)) < 0.05
    assert auto[3].dtype == head.weight.dtype


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts matrix products, and the most logits that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_products = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.num_products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        tensors = [tensor for tensor in torch.utils._pytree.tree_leaves(result) if isinstance(tensor, torch.Tensor)]
        of_logits = [t for t in tensors if t.dim() == 2 and t.shape[1] == VOCABULARY and len(t) != HIDDEN]
        self.largest = max([self.largest, *(tensor.numel() for tensor in of_logits)])
        return result


@pytest.mark.parametrize("tokens_per_chunk", [4, N])
def test_logits_of_all_tokens_never_exist_and_the_last_chunk_is_computed_once(monkeypatch, tokens_per_chunk) -> None:
    monkeypatch.setattr(head_module, "LOGITS_PER_CHUNK", tokens_per_chunk * VOCABULARY)
    hidden, targets, head = make_case(torch.float32)
    num_chunks = -(-N // tokens_per_chunk)
    with Products() as products:
        logprobs, _ = SelectedLogprobs(temperature=1.0)(hidden, targets, head)
        kept = [t for t in logprobs.grad_fn.saved_tensors if t is not None and t.numel() >= N * VOCABULARY]
        logprobs.sum().backward()
    assert not [tensor for tensor in kept if tensor is not head.weight]
    assert products.largest <= tokens_per_chunk * VOCABULARY
    # Logits, again all but the last chunk's, and the two gradients.
    assert products.num_products == num_chunks + (num_chunks - 1) + 2 * num_chunks


@pytest.fixture
def liger(monkeypatch):
    """Stands for Liger's kernel, which needs Triton: the loss of each token with its own gradient, in float32."""
    calls = []

    def liger_fused_linear_cross_entropy(input, weight, target, *, bias, reduction, accum_dtype):
        calls.append((input.dtype, weight.dtype, reduction, accum_dtype))
        logits = torch.nn.functional.linear(input, weight, bias)
        return torch.nn.functional.cross_entropy(logits.float(), target, reduction=reduction)

    functional = types.ModuleType("liger_kernel.transformers.functional")
    functional.liger_fused_linear_cross_entropy = liger_fused_linear_cross_entropy
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    return calls


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_liger_gets_what_it_needs(liger, temperature) -> None:
    hidden, targets, head = make_case(torch.float32, bias=True)
    slopes = torch.linspace(-1, 1, N)
    module = SelectedLogprobs(temperature=temperature, kernel="liger")
    ours = found(module, hidden, targets, head, slopes)
    theirs = plain(hidden, targets, head, temperature, slopes)
    assert ours.pop(1).isnan().all() and theirs.pop(1) is not None
    assert max(errors(ours, theirs)) < 1e-5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(hidden, targets, head)
    assert [call[:2] for call in liger] == [(torch.float32,) * 2, (torch.bfloat16,) * 2]
    assert {call[2:] for call in liger} == {("none", torch.float32)}


def test_what_cannot_run_is_refused(monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"learner\.head='liger': needs a GPU"):
        check_head("liger", has_gpu=False)
    monkeypatch.setattr(head_module, "_liger_version", lambda: (0, 7, 0))
    with pytest.raises(UsageError, match=r"liger-kernel>=0\.8\.5"):
        check_head("liger", has_gpu=True)
    monkeypatch.setattr(head_module, "_liger_version", lambda: (0, 9, 0))
    check_head("liger", has_gpu=True)
    check_head("chunked", has_gpu=False)
    with pytest.raises(UsageError, match=r"learner\.head_dtype='float32': this model does more"):
        check_plain_head(False, LearnerSettings(head_dtype="float32"))
    check_plain_head(True, LearnerSettings(head_dtype="float32"))
    check_plain_head(False, LearnerSettings())
