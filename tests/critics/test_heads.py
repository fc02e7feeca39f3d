"""Heads of critics: each learns the distribution that it is shown, and measures of risk are those of the literature."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from flowrl.critics.heads import HEADS, Atoms, make_head, quantile_huber_loss
from flowrl.critics.return_critic import of_smaller_mean, pooled
from flowrl.critics.risk import find_distortion, measure

CASES = [(name, {}) for name in HEADS] + [
    ("flow", dict(objective="quantile", n_bins=24)),
    ("flow", dict(grid="fixed", n_bins=24)),
]


def bimodal(n: int) -> Atoms:
    """A quarter of the returns around -2, the others around 1.5."""
    places = (torch.arange(n).double() + 0.5) / n
    normal = torch.special.ndtri((places * 4 % 1).clamp(0.02, 0.98))
    values = torch.where(places < 0.25, -2.0, 1.5) + 0.2 * normal
    return Atoms(values.sort().values.expand(1, n), torch.full((n,), 1 / n, dtype=torch.float64))


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_a_head_learns_a_distribution(name, options):
    torch.manual_seed(0)
    head, target = make_head(name, **options), bimodal(400)
    raw = torch.zeros(1, head.size, dtype=torch.float64, requires_grad=True)
    if name == "quantile":
        raw = torch.linspace(-1, 1, head.size).double()[None].requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for _ in range(200):
        loss = head.loss(raw, head.smooth(target)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    atoms = head.atoms(raw.detach())
    assert atoms.mean().item() == pytest.approx(target.mean().item(), abs=0.1)
    if name == "scalar":
        return
    # Wasserstein-1: the area between the distribution functions
    z = torch.linspace(-5, 5, 2001).double()

    def below(of: Atoms) -> Tensor:
        return ((of.values.squeeze(0)[:, None] <= z) * of.weights.expand_as(of.values).squeeze(0)[:, None]).sum(0)

    assert (below(atoms) - below(target)).abs().mean().item() * 10 < 0.2
    assert (atoms.values.diff(dim=-1) >= 0).all()


def test_a_projection_keeps_mass_and_mean():
    head = make_head("categorical", n_bins=11)
    values = torch.tensor([[-5.0, -1.2, 0.0, 3.9, 5.0]]).double()
    weights = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]).double()
    projected = head.project(Atoms(values, weights))
    support = torch.linspace(-5, 5, 11).double()
    assert projected.sum().item() == pytest.approx(1)
    assert (projected * support).sum().item() == pytest.approx((values * weights).sum().item())


@pytest.mark.parametrize("critic", ["flow", "categorical", "quantile", "scalar"])
@pytest.mark.parametrize("target", [float("nan"), float("inf")])
def test_the_loss_says_whether_a_target_is_a_number(critic, target):
    """Within their interval, infinity is one. No index that is made of NaN is out of bounds: no GPU survives that."""
    head = make_head(critic)
    bounded = torch.tensor([[target], [0.0]]).clamp(-5, 5) if head.is_bounded else torch.tensor([[target], [0.0]])
    atoms = Atoms(bounded, torch.ones(1))
    loss = head.loss(torch.zeros(2, head.size), head.smooth(atoms))
    assert loss.isfinite().tolist() == [head.is_bounded and target == float("inf"), True]


def test_the_noise_of_target_atoms_keeps_them_in_the_interval():
    head = make_head("flow", noise=3.0)
    target = Atoms(torch.tensor([[-5.0, 4.9]]).expand(500, 2), torch.full((2,), 0.5))
    smoothed = head.smooth(target).values
    assert smoothed.abs().max() <= 5 and smoothed.std(0).min() > 1


def test_the_quantile_loss_is_least_at_the_quantiles():
    target = Atoms(torch.linspace(0, 1, 1001).double()[None], torch.full((1001,), 1 / 1001).double())
    tau = torch.tensor([0.3]).double()
    losses = [quantile_huber_loss(torch.tensor([[q]]).double(), tau, target, 1e-3).item() for q in (0.25, 0.3, 0.35)]
    assert losses[1] < min(losses[0], losses[2])


def test_measures_of_risk():
    n = 100_000
    normal = torch.special.ndtri((torch.arange(n).double() + 0.5) / n)
    atoms = Atoms(2 + 3 * normal, torch.full((n,), 1 / n).double())
    density = math.exp(-0.5 * torch.special.ndtri(torch.tensor(0.25)).item() ** 2) / math.sqrt(2 * math.pi)
    assert measure(atoms, find_distortion("neutral")).item() == pytest.approx(2, abs=1e-6)
    assert measure(atoms, find_distortion("cvar:0.25")).item() == pytest.approx(2 - 3 * density / 0.25, abs=1e-3)
    # Wang's measure of a normal return is its mean less as many deviations
    assert measure(atoms, find_distortion("wang:0.75")).item() == pytest.approx(2 - 3 * 0.75, abs=1e-3)
    assert measure(atoms, find_distortion("cvar:1")).item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("risk", ["neutral", "cvar:0.25", "wang:0.75"])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_measures_of_risk_have_gradients_in_what_every_head_reads(name, risk, size):
    head, random = make_head(name), torch.Generator().manual_seed(0)
    raw = (size * torch.randn(20, head.size, generator=random)).requires_grad_()
    values = measure(head.atoms(raw), find_distortion(risk))
    values.sum().backward()
    assert values.isfinite().all() and raw.grad.isfinite().all() and (size > 1 or raw.grad.abs().sum() > 0)


@pytest.mark.parametrize("measure_of", ["cvar", "wang"])
def test_one_measure_is_one_object(measure_of):
    one, same, other = (find_distortion(f"{measure_of}:{number}") for number in ("0.5", "0.50", "0.25"))
    assert one is same and one is not other


WRONG_RISKS = ["cvar", "cvar:0", "cvar:2", "cvar:nan", "wang:x", "wang:nan", "wang:-inf", "mean", "neutral:1", "", None]


@pytest.mark.parametrize("risk", WRONG_RISKS)
def test_an_unknown_risk_is_refused(risk):
    with pytest.raises(ValueError, match="the worst quarter"):
        find_distortion(risk)


def test_pessimism():
    values = torch.tensor([[[0.0, 1.0, 9.0]], [[2.0, 3.0, 4.0]]]).double()
    weights = torch.full((3,), 1 / 3).double()
    np.testing.assert_array_equal(of_smaller_mean(Atoms(values, weights)).values, [[2, 3, 4]])
    kept = pooled(Atoms(values, weights), 1)
    np.testing.assert_array_equal(kept.values, [[0, 1, 2, 3]])
    assert kept.weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("flwo", {}, "did you mean 'flow'"),
        ("flow", dict(bins=3), "options"),
        ("flow", dict(objective="x"), "quantile"),
        ("flow", dict(grid="x"), "free"),
        *(
            (name, {option: value}, f"{option} must be .*, got {value}")
            for name, option, value in [
                ("flow", "n_atoms", 0),
                ("flow", "n_bins", 0),
                ("flow", "n_bins", 2.5),
                ("flow", "noise", -1.0),
                ("categorical", "n_bins", 1),
                ("quantile", "n_atoms", 0),
            ]
        ),
        *((name, dict(bound=value), "bound must be") for name in HEADS for value in (-1.0, 0.0, math.inf, "5")),
    ],
)
def test_bad_heads_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_head(name, **options)
