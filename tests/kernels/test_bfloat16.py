"""Products of factors rounded to bfloat16, `torch.set_float32_matmul_precision("medium")`, in the updates in C."""

import ctypes
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from flowrl import Flow, algorithms
from flowrl.kernels import bfloat16
from flowrl.kernels.library import Memory, load, pointers, run
from flowrl.kernels.networks import Networks, Perceptron
from flowrl.kernels.sac import SACUpdate
from tests.environments import Aim

pytestmark = pytest.mark.skipif(load(torch.float32) is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def medium():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


class RoundedLinear(torch.autograd.Function):
    """x W^T + b, of which every product, forward and backward, is of rounded factors and summed in float64."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return (rounded(x) @ rounded(weight).T).float() + bias

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return (rounded(g) @ rounded(weight)).float(), (rounded(g).T @ rounded(x)).float(), g.sum(0)


def rounded(x):
    return x.bfloat16().double()


def forward(network, x, last_rounded):
    for i, layer in enumerate(network[::2]):
        is_rounded = 0 < i <= last_rounded
        x = RoundedLinear.apply(x, layer.weight, layer.bias) if is_rounded else layer(x)
        x = torch.tanh(x) if 2 * i + 1 < len(network) else x
    return x


@pytest.mark.parametrize("batch", [2, 17, 64, 77, 256])
@pytest.mark.parametrize("last_rounded", [0, 1, 2])
@pytest.mark.parametrize("widths", [(3, 8, 5, 2), (5, 70, 33, 9), (17, 256, 256, 101), (4, 257, 290, 2)], ids=str)
def test_forward_and_backward_are_those_of_rounded_factors(widths, last_rounded, batch):
    networks = [network_of(widths) for _ in "ab"]
    x, g = torch.randn(batch, widths[0]), torch.randn(2, batch, widths[-1])
    expected = [forward(network, x, last_rounded) for network in networks]
    torch.autograd.backward(expected, list(g))

    outputs, gradients = passes(networks, x, g, last_rounded)
    for i in range(2):
        near(outputs[i], expected[i].detach())
    for parameter, gradient in zip(
        Networks([Perceptron.read(network) for network in networks]).parameters(), gradients
    ):
        near(gradient, parameter.grad)


def passes(networks, x, g, last_rounded):
    """Outputs of the kernel, and the gradients in all parameters, in its order."""
    stack, new = Networks([Perceptron.read(network) for network in networks]), Memory(torch.float32)
    parameters, width = stack.parameters(), g.shape[-1]
    values, gradients = pointers(parameters), pointers(to_parameters := [torch.zeros_like(p) for p in parameters])
    columns = x.T.contiguous()
    memory = dict(weights=ctypes.addressof(values), to_weights=ctypes.addressof(gradients))
    job = stack.job(len(x), new, rounded=last_rounded, x=columns.data_ptr(), **memory)
    outputs, to_outputs = (part[-2 * width :].view(2, width, len(x)) for part in new.kept[:2])
    run(torch.float32, "stack_forward", job)
    to_outputs.copy_(g.mT)
    run(torch.float32, "stack_backward", job)
    return outputs.mT, to_parameters


def network_of(widths):
    sizes = list(pairwise(widths))
    return nn.Sequential(nn.Linear(*sizes[0]), nn.Tanh(), nn.Linear(*sizes[1]), nn.Tanh(), nn.Linear(*sizes[2]))


def test_what_was_nan_before_is_in_no_later_sum():
    """Factors are packed where those of the call before were, and in whole blocks."""
    wide, narrow = ([network_of(widths) for _ in "ab"] for widths in [(5, 256, 256, 101), (5, 35, 35, 9)])
    x, g = torch.randn(77, 5), torch.randn(2, 77, 9)
    expected = passes(narrow, x, g, 2)
    found = passes(wide, torch.full((256, 5), torch.nan), torch.full((2, 256, 101), torch.nan), 2)
    assert found[0].isnan().all()
    torch.testing.assert_close(passes(narrow, x, g, 2), expected, rtol=0, atol=0)


def near(ours, theirs):
    """But for some that an almost equal sum rounds the other way (tanh, since it would switch a ReLU on or off)."""
    scale = theirs.abs().max().clamp_min(1e-6)
    assert (ours - theirs).abs().max() < 5e-3 * scale
    assert (ours - theirs).abs().mean() < 1e-4 * scale


def test_a_flows_parameters_and_single_numbers_are_not_rounded():
    def last_rounded(*modules, head=None):
        network = Perceptron.read(nn.Sequential(*modules))
        return Networks([network if head is None else network.followed_by(head)]).last_rounded

    wide = nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()
    assert last_rounded(*wide, nn.Linear(8, 5)) == 2
    assert last_rounded(*wide, nn.Linear(8, 1)) == 1
    assert last_rounded(*wide, head=Flow(2, 8).context_map) == 1
    assert last_rounded(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)) == 0


def updated(algorithm):
    """A model after three updates, and the losses of the last."""
    model = getattr(algorithms, algorithm)(
        "FlowPolicy", Aim(), seed=0, device="cpu", learning_starts=99, buffer_size=99
    )
    model.learn(64)
    model.train(3, 48)
    assert model.update_form == "C", model.update_reason
    losses = {key: value for key, value in model.logger.name_to_value.items() if key.endswith("_loss")}
    return model, torch.tensor(list(losses.values()))


@pytest.mark.parametrize("algorithm", ["SAC", "NFAC"])
def test_updates_are_nearly_those_of_float32(monkeypatch, algorithm):
    exact, losses = updated(algorithm)
    monkeypatch.setattr("flowrl.kernels.sac.is_rounded", lambda _: True)
    rounded, rounded_losses = updated(algorithm)
    torch.testing.assert_close(rounded_losses, losses, rtol=0.02, atol=0.02)
    apart = moved = 0.0
    for start, ours, theirs in zip(*([*model.policy.parameters()] for model in (first(algorithm), rounded, exact))):
        apart += (ours - theirs).square().sum().item()
        moved += (theirs - start).square().sum().item()
    assert 0 < apart < 0.1 * moved


def first(algorithm, **settings):
    return getattr(algorithms, algorithm)("FlowPolicy", Aim(), seed=0, device="cpu", **settings)


def test_it_is_asked_of_torch_and_of_the_processor(medium):
    assert bfloat16.is_rounded(torch.float64) is False
    fast = load(torch.float32).bfloat16_is_fast()
    assert bfloat16.is_rounded(torch.float32) is bool(fast)
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        assert bfloat16.is_rounded(torch.float32) is False


def processor_says(*words):
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and set(words) <= set(cpuinfo.read_text().split())


def linux_lends_its_matrix_unit():
    return processor_says("amx_bf16") and ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0  # arch_prctl(2), on x86-64


def test_what_makes_it_fast_is_found_where_it_is():
    fast = processor_says("AuthenticAMD", "avx512_bf16") or linux_lends_its_matrix_unit()
    assert load(torch.float32).bfloat16_is_fast() == fast


@pytest.mark.parametrize("algorithm", ["SAC", "NFAC"])
def test_threads_share_it_out(monkeypatch, algorithm):
    """A matrix unit is set up by each of them."""
    monkeypatch.setattr("flowrl.kernels.sac.is_rounded", lambda _: True)
    before, policies = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = first(algorithm, learning_starts=8, batch_size=200)
            policies.append(model.learn(12).policy.state_dict())
            assert model.update_form == "C", model.update_reason
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*policies, rtol=1e-5, atol=1e-6)


def test_acting_is_never_rounded(medium):
    obs = torch.randn(33, 3).numpy()
    found = first("SAC").predict(obs, deterministic=True)[0]
    torch.set_float32_matmul_precision("highest")
    assert (first("SAC").predict(obs, deterministic=True)[0] == found).all()


@pytest.mark.parametrize(("algorithm", "expected"), [("SAC", (1, 1, 1)), ("NFAC", (1, 2, 2))])
def test_actor_critics_and_targets_are_told_at_every_update(monkeypatch, algorithm, expected):
    told, prepare = [], SACUpdate._prepare

    def spy(update, job, model):
        prepare(update, job, model)
        told.append((job.actor.rounded, job.critics.rounded, job.targets.rounded))

    monkeypatch.setattr(SACUpdate, "_prepare", spy)
    wanted = iter([True, False, True])
    monkeypatch.setattr("flowrl.kernels.sac.is_rounded", lambda _: next(wanted))
    model = first(algorithm, learning_starts=8)
    model.learn(11)
    assert told == [expected, (0, 0, 0), expected]


def test_torchs_newer_switches_stop_nothing():
    """They make torch refuse to say what the older one is."""
    code = (
        "import torch; torch.backends.fp32_precision = 'tf32'; from flowrl.algorithms import SAC; "
        "model = SAC('FlowPolicy', 'Pendulum-v1', learning_starts=4).learn(6); print(model.update_form)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["C"]
