"""No batch, whatever it holds, costs a model its weights: an update is taken, or refused with an error."""

import numpy as np
import pytest

from experiments.studies import hostile
from experiments.studies.hostile import ATTACKS, ORDINARY, answer_to, make, rows_of, updating_in
from flowrl import available_flows
from tests.models import HAS_KERNELS, KERNEL_FLOWS

HARMLESS = {"observations of 0", "denormal observations (1e-42)", "actions on the edge of the box", "rewards of 1e12"}
UNHEARD_BY = {
    "PPO": {name for name in ATTACKS if "next observation" in name},  # a rollout has none
    "NFAC": {name for name in ATTACKS if "rewards" in name},  # its returns stay within an interval
}
UNHEARD_BY["NFAC with batch norms"] = UNHEARD_BY["NFAC"]
IN_TORCH = [("SAC", flow, "torch") for flow in available_flows()]
IN_TORCH += [(algorithm, "triangular", "torch") for algorithm in ("PPO", "NFQ", "NFAC", "NFAC with batch norms")]
IN_C = [("SAC", flow, "C") for flow in KERNEL_FLOWS]
IN_C += [(algorithm, "triangular", "C") for algorithm in ("PPO", "NFQ", "NFAC", "NFAC with batch norms")]


@pytest.mark.parametrize(("algorithm", "flow", "form"), IN_TORCH + IN_C * HAS_KERNELS)
def test_no_weight_is_lost(algorithm, flow, form, monkeypatch):
    monkeypatch.setattr(hostile, "AT_ONCE", 1)
    with updating_in(form):
        model = make(algorithm, flow)
        assert model.update_form == form
        answers = {name: answer_to(name, model, np.random.default_rng(0)) for name in ATTACKS}
        assert "not_finite" not in answers.values()
        harmless = HARMLESS | UNHEARD_BY.get(algorithm, set())
        assert {name for name in harmless if answers[name] == "refused"} == set()
        not_numbers = {name for name in ATTACKS if "NaN" in name or "infinite" in name}
        assert {name for name in not_numbers - harmless if answers[name] == "taken"} == set()
        assert answer_to(ORDINARY, model, np.random.default_rng(0)) == "taken"


def test_answers_are_counted():
    rows = rows_of("SAC", "gaussian", "torch", 40)
    assert sum(row["taken"] + row["refused"] + row["not_finite"] for row in rows) == 40
    assert rows_of("SAC", "planar", "C", 40) == []
