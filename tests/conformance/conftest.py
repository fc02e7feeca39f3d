"""Every check runs over the table of learners, and says for which one it is and what was refused by design."""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from tests.conformance.learners import ALL, LEARNERS, Learner

FIXTURES = {
    "learner": lambda learner: True,
    "off_policy": lambda learner: learner.off_policy,
    "on_policy": lambda learner: not learner.off_policy,
}
"""A test that asks for one of these runs for every learner that meets the condition."""


def pytest_generate_tests(metafunc: Any) -> None:
    for name in FIXTURES.keys() & set(metafunc.fixturenames):
        learners = [learner for learner in LEARNERS.values() if FIXTURES[name](learner)]
        if metafunc.config.getoption("--gaussian"):
            own = [learner for learner in learners if learner.algorithm is learner.like]
            learners = [
                dataclasses.replace(
                    learner,
                    gaussian=True,
                    small={name: value for name, value in learner.small.items() if name != "flow"},
                    refuses={what: refusal for what, refusal in learner.refuses.items() if what not in ALL},
                )
                for learner in own
            ]
        metafunc.parametrize(name, learners, ids=[learner.name for learner in learners])


def learner_of(request: Any) -> Learner | None:
    """The learner that a test runs for."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return next((value for value in parameters.values() if isinstance(value, Learner)), None)


@pytest.fixture(autouse=True)
def _said(request: Any, record_property: Any) -> None:
    """Tells experiments/studies/conformance.py whose check it was."""
    learner = learner_of(request)
    if learner is not None:
        record_property("learner", learner.name)


@pytest.fixture
def supports(request: Any, record_property: Any) -> Any:
    """``with supports(what)``: goes through, or is refused with the error that the table has for it."""
    learner = learner_of(request)

    def supported(what: str) -> AbstractContextManager[Any]:
        refusal = learner.refuses.get(what) if learner else None
        if refusal is None:
            return nullcontext()
        record_property("refused", what)
        return pytest.raises(refusal.error, match=refusal.message)

    return supported
