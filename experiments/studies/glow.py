"""Glow on images, scikit-learn's digits of 8x8 pixels, in bits per dimension: ``python experiments/studies/glow.py``.

All models see the same data, as in RealNVP (Dinh et al. 2017, section 4.1): the 17 grey levels made continuous by
uniform noise, then a logit. Both are in the account, so that the figures are of the original grey levels. Writes
``glow.png``, ``.csv`` and ``.json`` to ``experiments/results/``, in a few minutes.
"""

import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor
from torch.distributions import MultivariateNormal

from experiments.reports.results import ResultsParser, circumstances, write_results
from experiments.studies.digits import shuffled_digits
from experiments.training.provenance import versions_of
from flowrl import Flow
from flowrl.fit import fit_density
from flowrl.flows.images import image_glow
from flowrl.transforms import TanhBox

SIDE, LEVELS = 8, 17
FEATURES = SIDE * SIDE
COPIES = 10  # of each training image, each with noise of its own
DRAWS = 20  # of the noise, for each image that is scored
ROWS = 7  # the picture shows 7 x 7 images of each kind
# logit(a + (1 - 2 a) x) of x in [0, 1], a = 0.05, up to the factor 2 between logit and atanh
MARGIN = 0.05 / (1 - 2 * 0.05)
LOGIT = TanhBox(-MARGIN, 1 + MARGIN)  # from the whole line to a box around [0, 1]


class FullGaussian(torch.nn.Module):
    """The Gaussian with the data's mean and covariance matrix.

    :param data: shape ``(n, d)``
    """

    def __init__(self, data: Tensor):
        super().__init__()
        self.mean = torch.nn.Parameter(data.mean(0))
        self.factor = torch.nn.Parameter(torch.linalg.cholesky(data.T.cov()))

    def forward(self) -> MultivariateNormal:
        return MultivariateNormal(self.mean, scale_tril=self.factor)


def load_digits(seed: int) -> list[Tensor]:
    """
    The images in three parts, at random: 70 % to train, 10 % to stop by, 20 % to test.

    :param seed: of the split
    :return: grey levels from 0 to 16, each of shape ``(n, 64)``
    """
    images = shuffled_digits(seed)
    n = len(images)
    return list(images.split([n - n // 10 - n // 5, n // 10, n // 5]))


def dequantize(images: Tensor, copies: int) -> Tensor:
    """
    Grey levels to numbers on the whole line: (level + noise) / 17 in [0, 1), then the logit.

    :param images: shape ``(n, 64)``
    :param copies: how many of each, with different noise
    :return: shape ``(copies * n, 64)``
    """
    levels = images.repeat(copies, 1)
    return LOGIT.inverse_and_ladj((levels + torch.rand_like(levels)) / LEVELS)[0]


def quantize(x: Tensor) -> Tensor:
    """
    Back to grey levels; what a model puts outside [0, 1] becomes the nearest level.

    :param x: shape ``(n, 64)``
    :return: shape ``(n, 64)``
    """
    return (LOGIT(x) * LEVELS).floor().clamp(0, LEVELS - 1)


@torch.no_grad()
def bits_per_dimension(model: torch.nn.Module, images: Tensor) -> Tensor:
    """
    An upper bound on -log2 P(image) / 64, P being the model's probability of exactly these grey levels.

    P is the integral of the continuous density over the noise's cell, and the mean of its logarithm over the noise lies
    below the logarithm of its mean (Theis et al. 2016, eq. 2).

    :param model: a flow over the dequantized images
    :param images: shape ``(n, 64)``
    :return: of each image, shape ``(n,)``
    """
    x = dequantize(images, DRAWS)
    log_density = model().log_prob(x) - LOGIT.call_and_ladj(x)[1]  # over [0, 1]^64
    log_probability = log_density - FEATURES * math.log(LEVELS)  # a cell has the side 1 / 17
    return -log_probability.reshape(DRAWS, -1).mean(0) / (FEATURES * math.log(2))


def models(data: Tensor) -> dict[str, tuple[torch.nn.Module, bool]]:
    """
    What is compared.

    :param data: the training data, dequantized
    :return: name -> the model, and whether it is fitted step by step (the Gaussians' best parameters have closed forms)
    """
    image: dict[str, Any] = dict(shape=(SIDE, SIDE, 1), scales=3, width=32)
    built: dict[str, tuple[torch.nn.Module, bool]] = {
        "Gaussian, diagonal": (Flow(FEATURES, flow=[]), False),
        "Gaussian, full covariance": (FullGaussian(data), False),
        "nsf on flat images": (Flow(FEATURES, flow="nsf", layers=4), True),
        "Glow": (Flow(FEATURES, flow=image_glow, **image), True),
        "Glow, spline couplings": (Flow(FEATURES, flow=image_glow, coupling="spline", **image), True),
    }
    for model, _ in built.values():
        if isinstance(model, Flow):
            model.initialize(data)
    return built


def picture(panels: list[tuple[str, Tensor]]) -> Figure:
    """
    Images side by side.

    :param panels: title and images of each kind, shape ``(ROWS^2, 64)``
    """
    columns = 3
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 3.7 * rows), layout=ConstrainedLayoutEngine(wspace=0.08))
    for axes, (title, images) in zip(figure.subplots(rows, columns).flat, panels):
        grid = images.reshape(ROWS, ROWS, SIDE, SIDE)
        framed = torch.nn.functional.pad(grid, (0, 1, 0, 1), value=float("nan"))  # a line of the background's colour
        tiles = framed.permute(0, 2, 1, 3).flatten(0, 1).flatten(1)[:-1, :-1]
        axes.imshow(tiles, cmap="gray_r", vmin=0, vmax=LEVELS - 1, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    return figure


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("glow.py", __doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_200, help="of the optimiser, at most (default: 1200)")
    arguments = parser.parse_args(argv)

    torch.manual_seed(arguments.seed)
    train, validation, test = load_digits(arguments.seed)
    data, held_out = dequantize(train, COPIES), dequantize(validation, 5)
    panels = [("scikit-learn's digits (test)", test[: ROWS * ROWS])]
    rows: list[dict[str, Any]] = []
    for name, (model, is_fitted) in models(data).items():
        fit = None
        if is_fitted:
            fit = fit_density(
                model, data, steps=arguments.steps, validation=held_out, seed=arguments.seed, progress=True
            )
        scores = bits_per_dimension(model, test)
        rows.append(
            dict(
                model=name,
                test_bits_per_dim=round(scores.mean().item(), 4),
                standard_error=round((scores.std() / len(scores) ** 0.5).item(), 4),
                train_bits_per_dim=round(bits_per_dimension(model, train).mean().item(), 4),
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                best_step=fit.best_step if fit else 0,
                seconds=round(fit.seconds) if fit else 0,
                seed=arguments.seed,
            )
        )
        print(rows[-1])
        with torch.no_grad():
            panels.append((f"{name}: {scores.mean():.2f} bits/dim", quantize(model().sample((ROWS * ROWS,)))))

    made = circumstances()
    made["versions"] |= versions_of(["scikit-learn"])
    write_results(arguments.output, "glow", rows, made)
    picture(panels).savefig(arguments.output / "glow.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
