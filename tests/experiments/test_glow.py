"""experiments/studies/glow.py: images on their way to the line and back, and what the bits per dimension count."""

import csv
import math

import pytest
import torch
from torch import nn

from experiments.studies import glow


class UniformPixels(nn.Module):
    """Every pixel uniform over all grey levels: one of 17, whatever the image."""

    def forward(self) -> "UniformPixels":
        return self

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return glow.LOGIT.call_and_ladj(x)[1]  # density one over [0, 1]^64, in the coordinates of the logit


def images(n: int) -> torch.Tensor:
    return torch.randint(0, glow.LEVELS, (n, glow.FEATURES)).float()


def test_levels_come_back_from_the_line():
    original = images(50)
    x = glow.dequantize(original, copies=3)
    assert x.shape == (150, 64) and x.isfinite().all()
    assert torch.equal(glow.quantize(x), original.repeat(3, 1))
    assert glow.quantize(torch.tensor([-99.0, 99.0])).tolist() == [0, 16]


def test_bits_per_dimension_are_of_the_grey_levels():
    bits = glow.bits_per_dimension(UniformPixels(), images(20))
    torch.testing.assert_close(bits, torch.full((20,), math.log2(17)), atol=1e-4, rtol=0)


def test_bits_per_dimension_are_those_of_a_model_that_knows_the_level_half_of_the_time():
    """Density 17/2 over the cell of level 0, the rest uniform: -log2 of 1/2 for level 0, of 1/32 for each other."""

    class KnowsZero(UniformPixels):
        def log_prob(self, x):
            pixels, ladj = glow.LOGIT.call_and_ladj(x)
            is_zero = pixels < 1 / 17
            return ladj + torch.where(is_zero, math.log(17 / 2), math.log(17 / 32)).sum(-1)

    level_zero, level_three = torch.zeros(1, 64), torch.full((1, 64), 3.0)
    assert glow.bits_per_dimension(KnowsZero(), level_zero).item() == pytest.approx(1, abs=1e-4)
    assert glow.bits_per_dimension(KnowsZero(), level_three).item() == pytest.approx(5, abs=1e-4)


@pytest.mark.slow
def test_writes_a_table_and_a_picture(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn comes with the extra 'examples'")
    assert glow.main(["--steps", "2", "--output", str(tmp_path)]) == 0
    with open(tmp_path / "glow.csv", newline="") as file:
        bits = {row["model"]: float(row["test_bits_per_dim"]) for row in csv.DictReader(file)}
    assert bits["Gaussian, full covariance"] < bits["Gaussian, diagonal"] < math.log2(17)
    assert len(bits) == 5 and (tmp_path / "glow.png").stat().st_size > 10_000
