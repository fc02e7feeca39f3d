"""The worked examples run from end to end, with settings so small that their numbers mean nothing."""

import csv
import json
import math

import pytest
import torch

from experiments.studies import bayesian_logistic_regression, vae

pytest.importorskip("sklearn", reason="the examples' data: pip install -e '.[examples]'")


def test_vae_writes_its_table_and_its_picture(tmp_path):
    arguments = ["--steps", "10", "--seeds", "0", "--samples", "5", "--output", str(tmp_path)]
    assert vae.main(arguments) == 0
    rows = list(csv.DictReader(open(tmp_path / "vae.csv")))
    assert [row["posterior"] for row in rows] == list(vae.POSTERIORS)
    for row in rows:
        assert -64 < float(row["elbo"]) < float(row["log_likelihood"]) < 0
    assert "scikit-learn" in json.loads((tmp_path / "vae.json").read_text())["versions"]
    assert (tmp_path / "vae.png").stat().st_size > 0


def test_the_bound_of_an_untrained_vae_is_its_log_likelihood_minus_a_divergence():
    """With a decoder that ignores z, log p(x) is known, and the bound's gap is KL(q(z | x) || p(z))."""
    torch.manual_seed(0)
    model = vae.VAE(dict(flow=[]))
    with torch.no_grad():
        for parameter in (model.decoder[-1].weight, model.decoder[-1].bias):
            parameter.zero_()
    x = torch.randint(0, 2, (4, 64)).float()
    mean, log_std = model.posterior.context_map(model.encoder(x)).detach().chunk(2, -1)
    divergence = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1).mean().item()
    elbo, log_likelihood = model.evaluate(x, k=20_000)
    assert log_likelihood == pytest.approx(64 * math.log(0.5), abs=0.01)
    assert elbo == pytest.approx(64 * math.log(0.5) - divergence, abs=0.02)


@pytest.mark.slow
def test_bayesian_logistic_regression_writes_its_table_and_its_picture(tmp_path):
    pytest.importorskip("numpyro", reason="the reference: pip install -e '.[examples]'")
    sizes = "--features 2 --steps 300 --learning-rate 0.03 --draws 200 --levels 200 --paths 200 --flows affine"
    assert bayesian_logistic_regression.main([*sizes.split(), "--output", str(tmp_path)]) == 0
    reference, affine = csv.DictReader(open(tmp_path / "bayesian_logistic_regression.csv"))
    assert reference["method"].startswith("NUTS") and affine["method"] == "affine"
    error = math.hypot(*(float(row["log_z_standard_error"]) for row in (reference, affine)))
    assert float(affine["log_z"]) == pytest.approx(float(reference["log_z"]), abs=max(4 * error, 0.1))
    assert float(affine["mean_error"]) < 0.5 and float(affine["std_error"]) < 0.3
    assert json.loads((tmp_path / "bayesian_logistic_regression.json").read_text())["nuts_r_hat"] < 1.1
    assert (tmp_path / "bayesian_logistic_regression.png").stat().st_size > 0


def test_the_posterior_is_the_likelihood_times_the_prior():
    problem = bayesian_logistic_regression.breast_cancer(features=3, prior_scale=2.0)
    w = torch.randn(5, problem.dimensions)
    likelihood = torch.distributions.Bernoulli(logits=w @ problem.features.T).log_prob(problem.labels).sum(-1)
    prior = torch.distributions.Normal(0.0, 2.0).log_prob(w).sum(-1)
    torch.testing.assert_close(problem.log_density(w), likelihood + prior)
