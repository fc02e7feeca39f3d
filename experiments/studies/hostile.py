"""What inputs that no environment should give do to training: ``python experiments/studies/hostile.py``.

Updates a small model of each algorithm and flow, in C and in torch, on batches of which every second one is hostile: an
update must either be taken or be refused with an error, and no weight may ever be NaN or infinite. Writes
``hostile.csv`` and ``.json`` to ``experiments/results/``, and ``docs/reliability.md`` anew.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # agents/ and experiments/ are not installed

import numpy as np
import torch
from gymnasium import Env, spaces
from stable_baselines3.common.logger import Logger

from experiments.reports.results import RESULTS, ResultsParser, Row, write_results
from experiments.studies.reliability_page import ANSWERS, write_page
from flowrl import Diverged, algorithms, available_flows
from flowrl.algorithms import update_form

BATCH, OBSERVATIONS, ACTIONS = 32, 3, 2
AT_ONCE = 10  # updates on batches of one kind
UPDATES = {"C": 100_000, "torch": 10_000}
# Names of classes of `flowrl.algorithms`, with arguments of their policies
ALGORITHMS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ("SAC", "PPO", "NFQ", "NFAC")}
# Critics and norms of the agent nfac; its normalised observations are the environment's business
WITH_NORMS = dict(layer=dict(norm="layer"), batch=dict(norm="batch", unit_norm=True))
ALGORITHMS |= {
    f"NFAC with {name} norms": ("NFAC", dict(critic="categorical", architecture=architecture))
    for name, architecture in WITH_NORMS.items()
}
CASES = [("SAC", flow) for flow in available_flows()]
CASES += [(algorithm, flow) for algorithm in [*ALGORITHMS][1:] for flow in ("triangular", "nsf")]
# One step of the integrator and few hidden units: what is asked is whether numbers stay finite.
FLOW_KWARGS: dict[str, dict[str, Any]] = {"ffjord": dict(hidden=(8, 8), steps=1)}


class Spaces(Env):
    """Nothing but spaces."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,))
    action_space = spaces.Box(-1.0, 1.0, (ACTIONS,))


class Batch(NamedTuple):
    """Of transitions, or of a rollout, whose rewards are then its advantages and returns."""

    observations: np.ndarray
    next_observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


Attack = Callable[[Batch, np.random.Generator], None]


def everywhere(name: str, value: float) -> Attack:
    """A field that is one value, of either sign."""

    def attack(batch: Batch, random: np.random.Generator) -> None:
        field = getattr(batch, name)
        field[:] = value * random.choice([-1.0, 1.0], field.shape)

    return attack


def somewhere(name: str, value: float) -> Attack:
    """A field that has this value in every second transition."""

    def attack(batch: Batch, random: np.random.Generator) -> None:
        of_each = getattr(batch, name).reshape(BATCH, -1)
        of_each[::2, random.integers(of_each.shape[1])] = value

    return attack


ATTACKS: dict[str, Attack] = {
    "observations of 0": everywhere("observations", 0.0),
    "denormal observations (1e-42)": everywhere("observations", 1e-42),
    "observations of 1e5": everywhere("observations", 1e5),
    "observations of 1e30": everywhere("observations", 1e30),
    "some observations of 1e30": somewhere("observations", 1e30),
    "some observations that are NaN": somewhere("observations", np.nan),
    "some next observations that are infinite": somewhere("next_observations", np.inf),
    "next observations of 1e30": everywhere("next_observations", 1e30),
    "actions on the edge of the box": everywhere("actions", 1.0),
    "actions beyond the box (10)": everywhere("actions", 10.0),
    "some actions that are NaN": somewhere("actions", np.nan),
    "rewards of 1e12": everywhere("rewards", 1e12),
    "rewards of 1e30": everywhere("rewards", 1e30),
    "some rewards that are infinite": somewhere("rewards", np.inf),
}
ORDINARY = "nothing hostile"


def make(algorithm: str, flow: str) -> Any:
    """
    :param algorithm: one of :data:`ALGORITHMS`
    :param flow: a recipe
    :return: a small model
    """
    cls, of_policy = ALGORITHMS[algorithm]
    settings: dict[str, Any] = dict(n_steps=BATCH, batch_size=BATCH, n_epochs=AT_ONCE)
    if cls != "PPO":
        settings = dict(buffer_size=BATCH, batch_size=BATCH)
    policy_kwargs = of_policy | dict(net_arch=[16], flow=flow, flow_kwargs=FLOW_KWARGS.get(flow, {}))
    model = getattr(algorithms, cls)(
        "FlowPolicy", Spaces(), seed=0, device="cpu", policy_kwargs=policy_kwargs, **settings
    )
    model.set_logger(Logger(None, []))
    return model


def fill(model: Any, batch: Batch) -> None:
    """Put a batch where an update takes its own from."""
    is_rollout = hasattr(model, "rollout_buffer")
    buffer = model.rollout_buffer if is_rollout else model.replay_buffer
    for field in ("observations", "actions", "next_observations"):
        if hasattr(buffer, field):
            own = getattr(buffer, field)
            own[:] = getattr(batch, field).reshape(own.shape)
    rewards = batch.rewards.reshape(BATCH, 1)
    buffer.full = True
    if is_rollout:
        shape = buffer.returns.shape  # another one once it was read
        buffer.returns[:], buffer.advantages[:] = rewards.reshape(shape), rewards.reshape(shape)
        buffer.values[:], buffer.log_probs[:] = 0.0, -2.0
    else:
        buffer.rewards[:], buffer.dones[:] = rewards, 0.0


def ordinary(random: np.random.Generator) -> Batch:
    """A batch of what environments give."""
    shapes = ((BATCH, OBSERVATIONS), (BATCH, OBSERVATIONS), (BATCH, ACTIONS), (BATCH,))
    return Batch(*(random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes))


def numbers_of(model: Any) -> list[torch.Tensor]:
    """Whatever an update changes: weights, targets, the temperature, what optimisers remember."""
    owners = [model.policy, getattr(model, "actor", None), getattr(model, "critic", None)]
    optimizers = [getattr(owner, "optimizer", None) for owner in owners] + [getattr(model, "ent_coef_optimizer", None)]
    moments = [v for each in optimizers if each for state in each.state.values() for v in state.values()]
    temperature = [model.log_ent_coef] if getattr(model, "ent_coef_optimizer", None) is not None else []
    return [*model.policy.state_dict().values(), *moments, *temperature]


def answer_to(attack: str, model: Any, random: np.random.Generator) -> str:
    """
    Update a model some times, on batches under attack.

    :param attack: its name
    :param model: of :func:`make`
    :param random: numbers
    :return: one of :data:`ANSWERS`
    """
    batch = ordinary(random)
    if attack != ORDINARY:
        ATTACKS[attack](batch, random)
    fill(model, batch)
    try:
        model.train() if hasattr(model, "rollout_buffer") else model.train(AT_ONCE, BATCH)
        answer = "taken"
    except Diverged:
        answer = "refused"
    # What is not finite stays so: an ordinary batch need not be looked at
    finite = attack == ORDINARY or all(bool(number.isfinite().all()) for number in numbers_of(model))
    return answer if finite else "not_finite"


@contextmanager
def updating_in(form: str) -> Iterator[None]:
    """
    Let models update in C where they can, or in torch alone.

    :param form: ``"C"`` or ``"torch"``
    """
    compiled = update_form.compiled_update
    if form == "torch":
        update_form.compiled_update = lambda model: (None, "the study wants the other form")
    try:
        yield
    finally:
        update_form.compiled_update = compiled


def rows_of(algorithm: str, flow: str, form: str, updates: int) -> list[Row]:
    """
    Attack a model, and begin with a new one where a weight is lost.

    :param algorithm: one of :data:`ALGORITHMS`
    :param flow: a recipe
    :param form: ``"C"`` or ``"torch"``
    :param updates: how many
    :return: for each attack, how often each answer was given; nothing where that form does not know the flow
    """
    found: Counter[tuple[str, str]] = Counter()
    random, names = np.random.default_rng(0), [ORDINARY] * len(ATTACKS) + list(ATTACKS)
    with updating_in(form):
        model = make(algorithm, flow)
        if model.update_form != form:
            return []
        while found.total() < updates:
            attack = names[random.integers(len(names))]
            answer = answer_to(attack, model, random)
            found[attack, answer] += AT_ONCE if answer == "taken" else 1  # the first that is refused ends them
            if answer == "not_finite":
                model = make(algorithm, flow)
    of_case = dict(algorithm=algorithm, flow=flow, form=form)
    counts = {name: {answer: found[name, answer] for answer in ANSWERS} for name in (ORDINARY, *ATTACKS)}
    return [of_case | dict(input=name) | counts[name] for name in counts]


def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code: 1 if a weight was lost
    """
    parser = ResultsParser("hostile.py", __doc__)
    parser.add_argument("--updates", type=int, help="of each (default: 100,000 in C, 10,000 in torch)")
    parser.add_argument("--flows", nargs="+", choices=available_flows(), default=available_flows(), help="some of them")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS), help="some of them")
    arguments = parser.parse_args(argv)
    logging.getLogger("flowrl").setLevel(logging.ERROR)  # which form it is stands in the table
    torch.set_num_threads(1)  # so small a network is shared out in vain
    rows = []
    cases = [case for case in CASES if case[0] in arguments.algorithms and case[1] in arguments.flows]
    for algorithm, flow in cases:
        for form, updates in UPDATES.items():
            rows += (of_case := rows_of(algorithm, flow, form, arguments.updates or updates))
            lost = sum(row["not_finite"] for row in of_case)
            if of_case:
                print(f"{algorithm}, {flow}, {form}: a weight was lost {lost} times", flush=True)
    write_results(arguments.output, "hostile", rows)
    if arguments.output == RESULTS:
        write_page()
    return int(any(row["not_finite"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
