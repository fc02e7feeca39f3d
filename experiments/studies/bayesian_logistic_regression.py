"""Variational inference with flows, judged by MCMC: ``python experiments/studies/bayesian_logistic_regression.py``.

The posterior of a Bayesian logistic regression on scikit-learn's breast-cancer data, whose collinear features make its
coefficients depend on each other. Every flow is fitted by `flowrl.fit_variational`; the truth comes from elsewhere:
means and standard deviations from NumPyro's NUTS, log Z from annealed importance sampling (Neal 2001), which is a
stochastic flow without a transform. Writes ``bayesian_logistic_regression.png``, ``.csv`` and ``.json`` to
``experiments/results/``. Needs ``pip install -e '.[examples]'``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from experiments.reports.results import ResultsParser, Row, circumstances, write_results
from experiments.training.provenance import versions_of
from flowrl import Flow, fit_variational
from flowrl.fit import VariationalFit
from flowrl.fit.importance import ImportanceEstimate, importance_estimate
from flowrl.flows.stochastic import MetropolisAdjustedLangevin, StochasticFlow

FLOWS: dict[str, dict[str, Any]] = {
    "diagonal Gaussian": dict(flow=[]),
    "affine": dict(flow="affine"),
    "triangular": dict(flow="triangular", layers=2),
    "realnvp": dict(flow="realnvp"),
    "nsf": dict(flow="nsf"),
    "iaf": dict(flow="iaf"),
    "iaf, gated": dict(flow="iaf", gated=True),
}


@dataclass(frozen=True)
class LogisticRegression:
    """
    Bayesian logistic regression with a Gaussian prior.

    :param features: with a column of ones, shape ``(n, d)``
    :param labels: 0 or 1, shape ``(n,)``
    :param prior_scale: standard deviation of the coefficients' prior
    """

    features: Tensor
    labels: Tensor
    prior_scale: float

    @property
    def dimensions(self) -> int:
        """How many coefficients."""
        return self.features.shape[1]

    def log_density(self, w: Tensor) -> Tensor:
        """
        Log of the posterior times the evidence Z.

        :param w: coefficients, shape ``(*, d)``
        :return: log-likelihood plus log-prior, shape ``(*,)``
        """
        logits = w @ self.features.T
        log_likelihood = (self.labels * logits - F.softplus(logits)).sum(-1)
        return log_likelihood + Normal(0.0, self.prior_scale).log_prob(w).sum(-1)


def breast_cancer(features: int, prior_scale: float) -> LogisticRegression:
    """
    569 tumours, malignant or benign.

    :param features: the first so many of 30, standardised
    :param prior_scale: standard deviation of the coefficients' prior
    :return: with an intercept, hence features + 1 coefficients
    """
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0))[:, :features]
    x = np.concatenate((np.ones((len(x), 1)), x), axis=1)
    return LogisticRegression(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y).float(), prior_scale)


@dataclass(frozen=True)
class Reference:
    """
    What NUTS says of the coefficients.

    :param mean: shape ``(d,)``
    :param std: shape ``(d,)``
    :param draws: of all chains, shape ``(n, d)``
    :param ess: the effective sample size of each coefficient's mean, shape ``(d,)``
    :param r_hat: the largest split R-hat
    """

    mean: Tensor
    std: Tensor
    draws: Tensor
    ess: Tensor
    r_hat: float


def run_nuts(problem: LogisticRegression, chains: int, warmup: int, draws: int, seed: int) -> Reference:
    """
    Sample the posterior, as NumPyro writes it down, in double precision.

    :param problem: whose data and prior are taken
    :param chains: how many
    :param warmup: steps of each that adapt its metric
    :param draws: of each chain
    :param seed: of the chains
    :return: moments and diagnostics
    """
    try:
        import jax
        import numpyro
        from numpyro.diagnostics import summary
    except ImportError as error:
        raise ImportError("The reference needs NumPyro: pip install -e '.[examples]'") from error

    def model(x: Any, y: Any) -> None:
        scale = problem.prior_scale
        w = numpyro.sample("w", numpyro.distributions.Normal(0.0, scale).expand([x.shape[1]]).to_event(1))
        numpyro.sample("y", numpyro.distributions.Bernoulli(logits=x @ w), obs=y)

    with jax.enable_x64(True):
        kernel = numpyro.infer.NUTS(model, dense_mass=True)
        mcmc = numpyro.infer.MCMC(
            kernel,
            num_warmup=warmup,
            num_samples=draws,
            num_chains=chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(jax.random.PRNGKey(seed), *(part.double().numpy() for part in (problem.features, problem.labels)))
        samples = mcmc.get_samples(group_by_chain=True)["w"]
        diagnostics = summary({"w": samples})["w"]
    w = torch.as_tensor(np.array(samples)).flatten(0, 1)
    ess = torch.as_tensor(np.array(diagnostics["n_eff"]))
    return Reference(w.mean(0), w.std(0), w, ess, float(np.max(diagnostics["r_hat"])))


def run_ais(problem: LogisticRegression, levels: int, step_size: float, n: int, seed: int) -> ImportanceEstimate:
    """
    Annealed importance sampling from N(0, I) to the posterior by Metropolis-adjusted Langevin steps.

    :param problem: the target
    :param levels: steps, one at each level of annealing
    :param step_size: of Langevin's proposal
    :param n: how many paths
    :param seed: of all random numbers
    :return: its estimate of log Z
    """
    fractions = torch.linspace(0, 1, levels + 1)[1:]
    ais = StochasticFlow(
        problem.dimensions, [MetropolisAdjustedLangevin(step_size, annealing=float(a)) for a in fractions]
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        return importance_estimate(ais.sample_and_log_weight(problem.log_density, n)[1])


def judge(flow: Flow, fit: VariationalFit, reference: Reference, seed: int) -> tuple[Row, Tensor]:
    """
    A fitted flow against the reference.

    :param flow: the flow
    :param fit: its fit
    :param reference: what NUTS says
    :param seed: of the flow's samples
    :return: a row of the table, and the standard deviations relative to the reference's, shape ``(d,)``
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        x = flow().sample((len(reference.draws),)).double()
    shift = (x.mean(0) - reference.mean) / reference.std
    stretch = x.std(0) / reference.std
    row = _row(fit, shift.square().mean().sqrt().item(), (stretch - 1).square().mean().sqrt().item())
    return row, stretch


def _row(estimate: ImportanceEstimate, mean_error: float, std_error: float, elbo: bool = True) -> Row:
    """``mean_error`` is in posterior standard deviations, ``std_error`` relative; both are root mean squares."""
    return dict(
        elbo=round(estimate.elbo, 3) if elbo else "",
        log_z=round(estimate.log_z, 3),
        log_z_standard_error=round(estimate.log_z_standard_error, 4),
        ess=round(estimate.ess, 4),
        mean_error=round(mean_error, 4),
        std_error=round(std_error, 4),
    )


def draw(labels: Sequence[str], gaps: Sequence[float], stretches: Sequence[Tensor]) -> Figure:
    """
    Each flow's distance to the posterior, and what it makes of each coefficient's standard deviation.

    :param labels: names of the flows
    :param gaps: log Z - ELBO = KL(flow || posterior), nats
    :param stretches: standard deviations relative to the reference's, each of shape ``(d,)``
    :return: the figure
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(labels))
    left.plot(gaps, rows, "o", color="#08519c")
    left.set_xscale("log")
    left.set_yticks(rows, labels)
    left.invert_yaxis()
    left.set_xlabel("KL(flow ‖ posterior) = log Z − ELBO, nats")
    for row, gap in zip(rows, gaps):
        left.annotate(f"{gap:.2g}", (gap, row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9)
    left.margins(x=0.15)
    for row, stretch in zip(rows, stretches):
        right.plot(stretch, [row] * len(stretch), "|", color="#08519c", markersize=12)
    right.axvline(1.0, color="#d95f02", linewidth=1, zorder=0)
    right.set_xlabel("standard deviation of each coefficient / NUTS's")
    return figure


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    parser = ResultsParser("bayesian_logistic_regression.py", __doc__)
    parser.add_argument("--flows", nargs="+", default=list(FLOWS), choices=list(FLOWS), metavar="FLOW")
    parser.add_argument("--features", type=int, default=30, help="the first so many features (default: all 30)")
    parser.add_argument("--prior-scale", type=float, default=1.0, help="of the coefficients (default: 1)")
    parser.add_argument("--steps", type=int, default=3_000, help="of each fit (default: 3000)")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="of each fit (default: 0.005)")
    parser.add_argument("--draws", type=int, default=2_500, help="of each of NUTS's 4 chains (default: 2500)")
    parser.add_argument("--levels", type=int, default=3_000, help="of annealed importance sampling (default: 3000)")
    parser.add_argument("--paths", type=int, default=1_000, help="of annealed importance sampling (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    problem = breast_cancer(arguments.features, arguments.prior_scale)
    reference = run_nuts(
        problem, chains=4, warmup=max(arguments.draws // 5, 10), draws=arguments.draws, seed=arguments.seed
    )
    ais = run_ais(problem, arguments.levels, step_size=0.04, n=arguments.paths, seed=arguments.seed)
    # The reference's own errors: of a mean sd / sqrt(ess), of a standard deviation about sd / sqrt(2 ess).
    own = reference.ess.reciprocal().mean().sqrt().item()
    rows = [dict(method="NUTS; AIS for log Z") | _row(ais, own, own / 2**0.5, elbo=False)]
    print(rows[-1], f"R-hat {reference.r_hat:.4f}")
    estimates: list[ImportanceEstimate] = [ais]
    stretches = []
    for label in arguments.flows:
        torch.manual_seed(arguments.seed)
        flow = Flow(problem.dimensions, **FLOWS[label])
        fit = fit_variational(
            flow, problem.log_density, steps=arguments.steps, learning_rate=arguments.learning_rate, seed=arguments.seed
        )
        row, stretch = judge(flow, fit, reference, arguments.seed)
        rows.append(dict(method=label) | row)
        estimates.append(fit)
        stretches.append(stretch)
        print(rows[-1])

    made = circumstances()
    made["versions"] |= versions_of(("scikit-learn", "numpyro", "jax"))
    made |= dict(
        seed=arguments.seed, steps=arguments.steps, nuts_r_hat=reference.r_hat, nuts_ess=reference.ess.min().item()
    )
    write_results(arguments.output, "bayesian_logistic_regression", rows, made)
    log_z = min(estimates, key=lambda estimate: estimate.log_z_standard_error).log_z  # the most precise of all
    gaps = [max(log_z - estimate.elbo, 1e-3) for estimate in estimates[1:]]
    figure = draw(arguments.flows, gaps, stretches)
    figure.savefig(arguments.output / "bayesian_logistic_regression.png", dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
