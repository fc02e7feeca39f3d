"""``docs/reliability.md``, from the results of the studies of reliability."""

from collections import defaultdict

from experiments.reports.results import RESULTS
from experiments.training.tables import read_csv

ANSWERS = ("taken", "refused", "not_finite")
"""Updates that move the weights; those that raise and leave them finite; those by which a weight is lost."""

DOCUMENT = RESULTS.parents[1] / "docs" / "reliability.md"


def write_page() -> None:
    """Write the document anew."""
    DOCUMENT.write_text(page())
    print(f"wrote {DOCUMENT}", flush=True)


def page() -> str:
    """The document, in Markdown."""
    faults, hostile = (read_csv(RESULTS / f"{name}.csv") for name in ("reliability", "hostile"))
    in_c, in_torch = (_fewest_updates(hostile, form) for form in ("C", "torch"))
    return PAGE.format(faults=_faults(faults), hostile=_hostile(hostile), in_c=in_c, in_torch=in_torch)


def _faults(rows: list[dict[str, str]]) -> str:
    lines = []
    for row in rows:
        equal = f"{row['bit_equal']} of {row['runs']}" if row["bit_equal"] else "a new episode"
        lost = f"{row['steps_lost_mean']} ({row['steps_lost_most']})"
        lines.append(f"| {row['agent']} | {row['fault']} | {row['finished']} of {row['runs']} | {equal} | {lost} |")
    return "\n".join(lines)


def _fewest_updates(rows: list[dict[str, str]], form: str) -> str:
    """Of any algorithm and flow, in a form, rounded down to thousands."""
    updates: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        if row["form"] == form:
            updates[row["algorithm"], row["flow"]] += sum(int(row[answer]) for answer in ANSWERS)
    return f"{min(updates.values()) // 1000 * 1000:,}"


def _hostile(rows: list[dict[str, str]]) -> str:
    """For each input how many updates were refused, in each algorithm, over all flows and both forms."""
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    refused: dict[tuple[str, str], int] = defaultdict(int)
    updates: dict[tuple[str, str], int] = defaultdict(int)
    lost: dict[str, int] = defaultdict(int)
    for row in rows:
        case = row["input"], row["algorithm"]
        refused[case] += int(row["refused"])
        updates[case] += sum(int(row[answer]) for answer in ANSWERS)
        lost[row["input"]] += int(row["not_finite"])
    lines = [f"| input | {' | '.join(algorithms)} | weights lost |", f"| --- |{' --- |' * len(algorithms)} --- |"]
    for name in lost:
        shares = [f"{refused[name, one] / max(updates[name, one], 1):.0%}" for one in algorithms]
        lines.append(f"| {name} | {' | '.join(shares)} | {lost[name]} |")
    return "\n".join(lines)


PAGE = """# Reliability

Written by `make reliability` from [reliability.csv](../experiments/results/reliability.csv) and
[hostile.csv](../experiments/results/hostile.csv).

## A run that is killed, stopped or damaged

A checkpoint holds model and optimisers, replay buffer, normalisation, the environments with their simulators' states
and counters, Python's, NumPy's and torch's random numbers, logs in hand and what callbacks remember, and a checksum of
each file. It is written under another name, brought to the disk, and then renamed. On a CPU, with as many threads as
before, a resumed run's evaluations and weights are those of a run that nothing had happened to, bit for bit.

Pendulum, 2,000 steps, a checkpoint every 250 steps (PPO: at the next end of a rollout); each fault comes at a
random moment, and the run is resumed as `experiments/suite.py` does:

| agent | fault | finished | evaluations and weights bit-equal | steps trained again: mean (most) |
| --- | --- | --- | --- | --- |
{faults}

The same is tested with MuJoCo, dictionaries of observations, n-step returns, several environments, NFQ and SNF
(`tests/experiments/test_continuation.py`). Also tested:

- A flipped bit in any file of a checkpoint, half a file, a missing one: the checkpoint before is taken, with a warning
  (`tests/experiments/test_run.py`).
- A full disk: training goes on without the checkpoint, and waits for room for its tables, TensorBoard's events and
  models; nothing half written is left (`test_full_disk.py`).
- A suite that is killed while its runs go on: it finds them again, and trains nothing twice (`test_suite.py`).
- An environment that gives NaN: training stops and saves what was learned; the error names the environment, the step
  and the checkpoint (`test_run.py`).
- A process of `--vec-env subproc` that is lost: the run ends at once with an error that names it and the checkpoint to
  go on from (`test_workers.py`); in one's own script with SB3's `SubprocVecEnv` too, and the model can be saved
  (`tests/conformance/test_vectorised.py`).
- The cache of compiled kernels: a library that somebody else could have put there, a truncated or changed one, a home
  that cannot be written, a full disk, two processes at once, a process that is forked (`tests/kernels/test_cache.py`).
- A policy's file that is broken, or asks for code to be run: one error, and nothing runs (`tests/export`).

Transitions that a checkpoint and the last but one have in common are one file on the disk. The two newest share none,
so that the one before is whole where the newest is damaged.

What cannot be saved are environments whose simulators refuse to be pickled, Box2D's among them: the run says so once,
goes on with a new episode when it is resumed, and is then sound but not bit-equal. So is a run of SB3's own agents with
`use_sde`, whose exploration noise is drawn before a checkpoint and not in it. A finished run that grows (`--resume
RUN_DIR --steps N`) is the one that would have been longer if its learning rate is constant.

## Inputs that no environment should give

A NaN, or a number so large that a loss or a gradient overflows, costs a run its weights where an optimiser takes the
step. Here the update is refused with an error that says what to look at, and every weight, and all that the optimisers
remember, stays finite: in C and in torch, in every algorithm. The training commands stop at an observation or a reward
that is NaN or infinite before it enters a replay buffer.

Small models of every flow (SAC) and of two flows (the others), at least {in_c} updates of each in C and {in_torch}
in torch, half of them on batches with one of these inputs. How many were refused:

{hostile}

NFAC's returns stay within their interval, so that no reward is too large for it: what it clips stands in its log.

At such observations, with weights that saturate every scale, and at the edges of the box, policies act within their box
or say that they cannot (`tests/policies/test_extremes.py`); a flow is evaluated in the precision of its weights, also
under autocast (`tests/flows/test_precision.py`).

## Beside Stable-Baselines3

What SB3's and sb3-contrib's own test-suites check, and the versions that are tried: [Conformance](conformance.md).
"""
