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

A checkpoint holds the model and its optimisers, the replay buffer, the normalisation, the environments with the state
of their simulators, the random states of Python, NumPy and torch, unwritten logs, the state of callbacks, and checksums
of the files. It is written under another name, flushed to the disk, and then renamed. On a CPU, with the same number of
threads, a resumed run has the same evaluations and weights as a run without interruption, bit for bit.

The table is for Pendulum, 2,000 steps, a checkpoint every 250 steps (PPO: at the next end of a rollout). Each fault
comes at a random moment. Then the run is resumed as `experiments/suite.py` does it:

| agent | fault | finished | evaluations and weights bit-equal | steps trained again: mean (most) |
| --- | --- | --- | --- | --- |
{faults}

Tests check the same with MuJoCo, dictionaries of observations, n-step returns, several environments, NFQ and SNF
(`tests/experiments/test_continuation.py`). They also check:

- A flipped bit in any file of a checkpoint, half a file, a missing file: the checkpoint before it is used, with a
  warning (`tests/experiments/test_run.py`).
- A full disk: training goes on without the checkpoint. For tables, TensorBoard's events and models it waits until there
  is space. No incomplete file is left (`test_full_disk.py`).
- A suite that is killed while its runs go on: the next suite finds them, and trains nothing twice (`test_suite.py`).
- An environment that gives NaN: training stops and saves what was learned. The error names the environment, the step
  and the checkpoint (`test_run.py`).
- A lost process of `--vec-env subproc`: the run ends at once. The error names the process and the checkpoint to go on
  from (`test_workers.py`). In a script with SB3's `SubprocVecEnv` it is the same, and the model can be saved
  (`tests/conformance/test_vectorised.py`).
- The cache of compiled kernels: a library that somebody else could have put there, a truncated or changed library, a
  home that cannot be written, a full disk, two processes at once, a forked process (`tests/kernels/test_cache.py`).
- A policy file that is broken or asks to run code: there is one error, and no code runs (`tests/export`).

A checkpoint shares files with the last but one, for the transitions that both have. The two newest checkpoints share no
file, so that the older one is intact if the newer one is damaged.

Environments whose simulators cannot be pickled, such as those of Box2D, cannot be saved. The run says so once. When it
is resumed, it starts a new episode: a valid run, but not bit-equal. The same holds for SB3's own agents with `use_sde`,
because the exploration noise is drawn before the checkpoint and not saved in it. If you prolong a finished run
(`--resume RUN_DIR --steps N`), it equals a run of N steps from the start only if its learning rate is constant.

## Inputs that no environment should give

If an optimiser takes a step with a NaN, or with a loss or gradient that overflowed, the weights of the run are lost.
Here such an update is refused with an error that says what to look at. All weights and the state of the optimisers stay
finite, in C and in torch, in every algorithm. The training commands stop at an observation or a reward that is NaN or
infinite, before it enters a replay buffer.

The table has the part of updates that were refused. The models are small, with every flow (SAC) or two flows (the other
algorithms). Each made at least {in_c} updates in C and {in_torch} in torch, half of them on batches with one of these
inputs:

{hostile}

NFAC clips returns to the interval of its critics, so that no reward is too large for it. `train/clipped_targets` logs
the fraction that was clipped.

With such observations, with weights that saturate every scale, and at the edges of the box, a policy gives an action
inside its box or raises an error (`tests/policies/test_extremes.py`). A flow is evaluated in the precision of its
weights, also under autocast (`tests/flows/test_precision.py`).

## Beside Stable-Baselines3

[Conformance](conformance.md) covers what the test suites of SB3 and sb3-contrib check, and the tested versions.
"""
