"""How fast everything is, beside everything it could be compared with: ``python experiments/benchmark.py [MODE ...]``.

==============  ========================================================================================
mode            what takes turns
==============  ========================================================================================
``transforms``  a pass through flowrl's flows and through zuko's, normflows' and nflows' spline couplings
``sac``         training of SAC: Stable-Baselines3's Gaussian, flows in it and in flowrl's SAC, SBX, ``run.py``
``ppo``         training of PPO, on one environment and on eight
``act``         one action of each of them
``scale``       passes through flows of 1 to 128 dimensions
==============  ========================================================================================

The contenders of a case take turns (A B C A B C ...) for the same amount of work, so that whatever else the machine
does meets all of them; the ratio to the reference is taken round by round. Every mode writes ``speed_MODE.csv``,
``.json`` and ``.png``, and ``speed_targets.csv`` says what the ratios should be and are: to ``experiments/results/``
with the default settings, which are those of the published results, and to ``runs/benchmark/`` with any others. Peers
that are not installed are skipped; ``make benchmark`` brings all of them.
"""

import argparse
import multiprocessing
import os
import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

import torch

from experiments.benchmarks import act, ppo, sac, scale, table, targets, transforms
from experiments.benchmarks.mode import Mode, Options
from experiments.benchmarks.peers import PACKAGES
from experiments.benchmarks.turns import take_turns
from experiments.reports.results import ResultsParser, circumstances, write_results
from experiments.training.environments import find_environment
from experiments.training.errors import UsageError, did_you_mean, one_line_errors
from experiments.training.provenance import versions_of
from experiments.training.training import check_device, check_flow
from flowrl import DEFAULT_FLOW

MODES: dict[str, Mode] = {module.MODE.name: module.MODE for module in (transforms, sac, ppo, act, scale)}


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    arguments = parse_arguments(argv)
    for name in arguments.modes:
        if name not in MODES:
            raise UsageError(f"unknown mode {name!r}: {did_you_mean(name, MODES)}")
    environment, output = find_environment(arguments.env), arguments.output
    check_device(arguments.device)
    flows = [check_flow(flow) for flow in dict.fromkeys(arguments.flows)]

    def options(mode: Mode) -> Options:
        return Options(
            env=environment.id,
            flows=flows,
            rounds=1 if arguments.quick else arguments.rounds,
            amount=arguments.steps or (mode.quick_amount if arguments.quick else mode.amount),
            threads=arguments.threads,
            device=arguments.device,
            quick=arguments.quick,
        )

    modes = [MODES[name] for name in arguments.modes or MODES]
    if len(modes) == 1:
        run(modes[0].name, options(modes[0]), output)
        failed = False
    else:
        failed = any([failed_in_own_process(mode.name, options(mode), output) for mode in modes])
    report_targets(output)
    return int(failed)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: the arguments; those of the process by default
    :return: what they say
    """
    parser = ResultsParser("benchmark.py", "Speed beside that of others, taking turns.")
    flows = list(dict.fromkeys([DEFAULT_FLOW, "gaussian", "nsf"]))
    amounts = ", ".join(f"{mode.name} {mode.amount}" for mode in MODES.values())
    parser.add_argument("modes", metavar="MODE", nargs="*", help=f"{', '.join(MODES)} (default: all)")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--flows", nargs="+", default=flows, help=f"of the agents (default: {' '.join(flows)})")
    parser.add_argument("--rounds", type=positive, default=7, help="turns of each (default: 7)")
    parser.add_argument("--steps", type=positive, help=f"passes, steps or predictions in a turn (default: {amounts})")
    parser.add_argument("--threads", type=positive, default=2, help="of torch and JAX (default: 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="one round of the least work: does everything run?")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """
    An argument that is a whole number from 1 on.

    :param text: what was typed
    :return: the number
    """
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text}")
    return int(text)


def failed_in_own_process(name: str, options: Options, output: Path) -> bool:
    """
    Run a mode where the libraries of another cannot change it (zuko switches torch's checks off, for instance).

    :param name: of the mode
    :param options: the command line
    :param output: where the results go
    :return: whether it failed
    """
    process = multiprocessing.get_context("spawn").Process(target=run, args=(name, options, output))
    process.start()
    process.join()
    return process.exitcode != 0


def run(name: str, options: Options, output: Path) -> None:
    """
    Measure one mode, print its tables as they come, and write its results.

    :param name: of the mode
    :param options: the command line
    :param output: where the results go
    """
    mode = MODES[name]
    limit_threads(options)
    rows = []
    for case in mode.cases(options):
        print(f"{mode.name}: {case.what}", flush=True)
        rows += table.rows(case, take_turns(case, options.rounds))
        print(table.show(rows[-len(case.contenders) :]), flush=True)
    made = circumstances() | dict(peers=versions_of(PACKAGES), machine=machine(options.device), options=asdict(options))
    stem = f"speed_{name}" if options.device == "cpu" else f"speed_{name}_{options.device}"
    write_results(output, stem, rows, made)
    title = mode.title.format(env=options.env)
    mode.chart(f"{title}\n{processor(options)}", rows).savefig(output / f"{stem}.png", dpi=160)


def report_targets(output: Path) -> None:
    """
    Print and write what the ratios of all modes measured so far should be, and are.

    :param output: where the modes' results are
    """
    rows, made = targets.rows(output)
    if rows:
        print(f"targets:\n{targets.show(rows)}")
        write_results(output, "speed_targets", rows, made)


def limit_threads(options: Options) -> None:
    """
    Give torch, JAX, which is not imported yet, and other processes the same threads and the same device.

    :param options: the command line
    """
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["PJRT_NPROC"] = os.environ["NPROC"] = str(options.threads)
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # or JAX takes most of the GPU's memory from torch


def machine(device: str) -> dict[str, Any]:
    """
    What the numbers were measured on.

    :param device: ``cpu`` or ``cuda``
    :return: processor with its widest vectors, cores and GPU
    """
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    instructions = torch.backends.cpu.get_cpu_capability()
    return dict(cpu=cpu_model(), instructions=instructions, cores=os.cpu_count(), gpu=gpu, platform=platform.platform())


def processor(options: Options) -> str:
    """
    A few words on the machine for a picture's title.

    :param options: the command line
    :return: the GPU, or the processor and the threads
    """
    if options.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{cpu_model()}, {options.threads} thread{'s' if options.threads > 1 else ''}"


def cpu_model() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
