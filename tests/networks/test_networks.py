"""Normalisations agree with their definitions, and networks are of the architecture that was asked for."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from flowrl.networks import (
    Architecture,
    BatchRenorm,
    DictNormalization,
    ReturnScale,
    RunningNormalization,
    perceptron,
    project,
)


def test_running_statistics_are_those_of_all_observations():
    random = np.random.default_rng(0)
    data = random.normal([1e4, 0, 3], [2, 1e-3, 0], (500, 3))
    normalization = RunningNormalization((3,))
    x = torch.as_tensor(data, dtype=torch.float32)
    torch.testing.assert_close(normalization(x), x.clamp(-10, 10))  # nothing is known yet
    for part in np.split(data, [1, 7, 100]):
        normalization.observe(torch.as_tensor(part))
    np.testing.assert_allclose(normalization.mean, data.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalization.deviation_squares / 500, data.var(0), rtol=1e-6, atol=1e-12)
    given = normalization(torch.as_tensor(data)).numpy()
    np.testing.assert_allclose(given[:, :2].std(0), 1, rtol=1e-3)
    assert np.abs(given[:, 2]).max() < 1e-6, "a feature that never moves stays at zero"
    assert normalization(torch.full((1, 3), 1e30)).abs().max() == 10
    other = RunningNormalization((3,))
    other.load_state_dict(normalization.state_dict())
    assert torch.equal(other(x), normalization(x))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(wrong):
    normalization, scale = RunningNormalization((2,)), ReturnScale(5.0)
    with pytest.raises(ValueError, match="VecCheckNan"):
        normalization.observe(torch.tensor([[0.0, wrong]]))
    with pytest.raises(ValueError, match="reward"):
        scale.observe([wrong], [False], 0.9)
    assert normalization.count == 0 and scale.scale == 1


@pytest.mark.parametrize("kind", [RunningNormalization, BatchRenorm])
def test_an_empty_batch_moves_no_statistics(kind):
    module = kind((3,))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    getattr(module, "observe", module)(torch.zeros(0, 3))
    assert module(torch.zeros(0, 3)).shape == (0, 3)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return():
    random, scale = np.random.default_rng(0), ReturnScale(5.0)
    rewards, dones = random.normal(1, 2, (400, 2)), random.random((400, 2)) < 0.05
    running, seen = np.zeros(2), []
    for reward, done in zip(rewards, dones):
        running = 0.9 * running + reward
        seen += running.tolist()
        running = running * ~done
        scale.observe(reward, done, 0.9)
    assert scale.scale == pytest.approx(max(np.std(seen), np.abs(seen).max() / 5), rel=1e-6)
    scale.observe([1e6, 0], [False, False], 0.9)
    assert scale.scale > 1e6 / 5 - 1, "the largest return lies within the interval"


def test_batch_renorm_is_batch_norm_before_it_is_warm_and_in_evaluation():
    ours, theirs = BatchRenorm(4), nn.BatchNorm1d(4, momentum=0.01)
    x = torch.randn(64, 4) * 3 + 1
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    ours.eval()
    ours.variance.fill_(4)
    ours.mean.fill_(1)
    torch.testing.assert_close(ours(x), (x - 1) / 2, atol=1e-4, rtol=1e-4)
    ours.train()
    ours.updates.fill_(1e9)
    torch.testing.assert_close(
        ours(x), (x - 1) / 2, atol=1e-4, rtol=1e-4
    )  # within the clips it is the running moments'


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30])
def test_batch_renorm_forgets_moments_that_are_not_finite(wrong):
    """Of each feature; the update that such a batch would make is refused, and the next one finds numbers."""
    module = BatchRenorm(2)
    module(torch.tensor([[wrong, 1.0], [0.0, 3.0]]))
    assert module.mean.tolist() == pytest.approx([0, 0.02]) and module.variance.tolist() == pytest.approx([1, 1])
    module(torch.tensor([[1.0, 1.0], [3.0, 3.0]]))
    assert module.mean[0].item() == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("norm", "residual", "outputs"),
    [*product(("none", "layer", "rms", "batch"), (False, True), (3,)), ("layer", False, 0), ("rms", True, 0)],
)
def test_every_architecture_learns(norm, residual, outputs):
    torch.manual_seed(0)
    architecture = Architecture((32, 32), norm=norm, residual=residual, input_shift=2.0)
    network = perceptron(5, outputs, architecture)
    x = torch.randn(256, 5)
    assert network(x).shape == (256, outputs or 32)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    target = torch.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3].abs()], 1)
    losses = []
    for _ in range(60):
        loss = (network(x)[:, :3] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_rows_before_a_norm_have_the_length_one():
    network = perceptron(5, 3, Architecture((8, 8), norm="layer", unit_norm=True))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3
    x = torch.randn(10, 5)
    before = network(x)
    last = network[-1].weight.clone()
    project([network])
    torch.testing.assert_close(network[0].weight.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(network[3].weight.norm(dim=1), torch.ones(8))
    assert torch.equal(network[-1].weight, last) and not torch.equal(network(x), before)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(norm="group"), "none, layer, rms, batch"),
        (dict(unit_norm=True), "norm follows"),
        *(
            (dict(widths=(8, width)), f"width of a hidden layer must be a whole number of at least 1, got {width}")
            for width in (0, 2.5)
        ),
        (dict(widths=(), residual=True), "hidden layers"),
        (dict(widths=(8, 16), residual=True), "one width"),
        *(
            (dict(residual=True, expansion=expansion), f"expansion must be .* of at least 1, got {expansion}")
            for expansion in (0, 2.5, True)
        ),
        *((dict(input_shift=shift), f"other than zero.*got {shift}") for shift in (0.0, np.nan, np.inf)),
    ],
)
def test_impossible_architectures_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Architecture(**options)


def test_numbers_of_numpy_are_counts():
    block = perceptron(3, 2, Architecture((np.int64(8),), residual=True, expansion=np.int64(3)))[1]
    assert block.expand.out_features == 24


def test_dictionaries_are_normalised_entry_by_entry_whatever_their_names():
    x = {"a.b": torch.randn(50, 2) * 3 + 1, "type": torch.randn(50, 1), "keys": torch.ones(50, 1)}
    normalization = DictNormalization({"a.b": (2,), "type": (1,)})
    normalization.observe(x)
    y = normalization(x)
    assert list(y) == list(x) and y["keys"] is x["keys"] and normalization.count == 50
    for key in ("a.b", "type"):
        expected = (x[key] - x[key].mean(0)) / x[key].std(0, correction=0)
        torch.testing.assert_close(y[key], expected)
