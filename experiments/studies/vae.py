"""A variational autoencoder with a flow as its posterior: ``python experiments/studies/vae.py``.

Handwritten digits of scikit-learn (8 x 8, black and white). The posterior q(z | x) is an inverse autoregressive flow
(Kingma et al. 2016) or a diagonal Gaussian, all else the same. Judged on digits that neither training nor the choice
of weights has seen: by the evidence lower bound, and by the importance-weighted log-likelihood (Burda et al. 2016).
Writes ``vae.png``, ``.csv`` and ``.json`` to ``experiments/results/``. Needs ``pip install -e '.[examples]'``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.reports.results import ResultsParser, Row, circumstances, write_results
from experiments.studies.digits import shuffled_digits
from experiments.training.provenance import versions_of
from flowrl import Flow
from flowrl.flows.distribution import standard_normal_log_prob

LATENT = 16
HIDDEN = 128
BATCH = 128
WARMUP = 0.2  # fraction of training until the KL term counts in full
EVALUATIONS = 50
POSTERIORS: dict[str, dict[str, Any]] = {
    "diagonal Gaussian": dict(flow=[]),
    "IAF": dict(flow="iaf"),
    "IAF, gated": dict(flow="iaf", gated=True),
}


class VAE(nn.Module):
    """
    p(z) = N(0, I), p(x | z) independent Bernoulli pixels, q(z | x) a conditional flow.

    :param posterior: a recipe and its options, as :class:`flowrl.Flow` takes them
    """

    def __init__(self, posterior: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 64))
        self.posterior = Flow(LATENT, HIDDEN, **posterior)

    def log_weight(self, x: Tensor, k: int = 1, beta: float = 1.0) -> Tensor:
        """
        log p(x | z) + beta (log p(z) - log q(z | x)) for z ~ q(z | x): of mean ELBO at beta = 1.

        :param x: pixels, 0 or 1, shape ``(n, 64)``
        :param k: samples of z for each x
        :param beta: weight of the KL term
        :return: shape ``(k, n)``
        """
        z, log_q = self.posterior(self.encoder(x)).rsample_and_log_prob((k,))
        logits = self.decoder(z)
        log_likelihood = (x * logits - F.softplus(logits)).sum(-1)
        return log_likelihood + beta * (standard_normal_log_prob(z) - log_q)

    @torch.no_grad()
    def evaluate(self, x: Tensor, k: int) -> tuple[float, float]:
        """
        :param x: pixels, shape ``(n, 64)``
        :param k: samples of z for each x
        :return: ELBO and importance-weighted log-likelihood with k samples, means over x, nats
        """
        log_w = torch.cat([self.log_weight(part, k) for part in x.split(32)], dim=1)
        return log_w.mean().item(), (log_w.logsumexp(0) - np.log(k)).mean().item()


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """
    Black-and-white digits.

    :return: 1,200 to train, 200 to choose the weights by, 397 to test; always the same, each of shape ``(n, 64)``
    """
    train, validation, test = (shuffled_digits(seed=0) >= 8).float().split((1200, 200, 397))
    return train, validation, test


def train(posterior: dict[str, Any], train: Tensor, validation: Tensor, steps: int, seed: int) -> VAE:
    """
    Train a VAE by the evidence lower bound, its learning rate decaying to zero.

    :param posterior: recipe and options
    :param train: digits to train on
    :param validation: digits that choose the weights, at one of 50 evaluations
    :param steps: of the optimiser
    :param seed: of everything
    :return: with the weights of the best evaluation
    """
    torch.manual_seed(seed)
    model = VAE(posterior)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, weights = -np.inf, model.state_dict()
    for step in range(1, steps + 1):
        x = train[torch.randint(len(train), (BATCH,))]
        loss = -model.log_weight(x, beta=min(1.0, step / (WARMUP * steps))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // EVALUATIONS) == 0 and step >= WARMUP * steps:
            elbo, _ = model.evaluate(validation, k=20)
            if elbo > best:
                best, weights = elbo, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    return model


def draw(rows: Sequence[Row], samples: Tensor) -> Figure:
    """
    The test results of all seeds, and digits that a model makes up.

    :param rows: the table
    :param samples: pixel probabilities, shape ``(40, 64)``
    :return: the figure
    """
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["posterior"] for row in rows))
    for key, label, color in (("elbo", "ELBO", "#6baed6"), ("log_likelihood", "log-likelihood (k samples)", "#08519c")):
        values = [row[key] for row in rows]
        left.plot(values, [names.index(row["posterior"]) for row in rows], "|", color=color, label=label, markersize=14)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlabel("test digits, nats per digit; one mark per seed")
    left.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    tiles = F.pad(samples.view(4, 10, 8, 8), (1, 1, 1, 1))
    right.imshow(tiles.permute(0, 2, 1, 3).reshape(40, 100).numpy(), cmap="gray_r", vmin=0, vmax=1)
    right.set_title(f"pixel probabilities at z from the prior ({rows[-1]['posterior']})", fontsize=9)
    right.set_axis_off()
    return figure


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("vae.py", __doc__)
    parser.add_argument("--steps", type=int, default=3_000, help="of each training (default: 3000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--samples", type=int, default=500, help="k of the log-likelihood (default: 500)")
    arguments = parser.parse_args(argv)

    training, validation, test = digits()
    rows: list[Row] = []
    for name, posterior in POSTERIORS.items():
        for seed in arguments.seeds:
            model = train(posterior, training, validation, arguments.steps, seed)
            elbo, log_likelihood = model.evaluate(test, arguments.samples)
            rows.append(
                dict(
                    posterior=name,
                    seed=seed,
                    steps=arguments.steps,
                    elbo=round(elbo, 3),
                    log_likelihood=round(log_likelihood, 3),
                    samples=arguments.samples,
                    gap=round(log_likelihood - elbo, 3),
                )
            )
            print(rows[-1], flush=True)
    with torch.no_grad():
        made_up = model.decoder(torch.randn(40, LATENT, generator=torch.Generator().manual_seed(0))).sigmoid()

    made = circumstances()
    made["versions"] |= versions_of(("scikit-learn",))
    write_results(arguments.output, "vae", rows, made)
    draw(rows, made_up).savefig(arguments.output / "vae.png", dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
