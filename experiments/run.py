"""Train an agent: ``python experiments/run.py --env HalfCheetah --agent flow-sac``."""

import argparse
import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

from experiments.training.errors import one_line_errors

# A thread of OpenMP's that waits for another spins, by default for milliseconds. Where something else runs on one of
# the cores, the other may wait for that very core: flow-sac was ten times slower then (11 steps/s in place of 103 on
# two cores), and is as fast without company (206). torch reads this where it is imported first.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

EXAMPLES = """\
examples:
  python experiments/run.py --env HalfCheetah --agent flow-sac
  python experiments/run.py --env Hopper --agent flow-ppo --flow nsf --steps 500000 --seed 3
  python experiments/run.py --env Pendulum --agent sac --set learning_rate=3e-4 --set policy_kwargs.net_arch=[64,64]
  python experiments/run.py --env flowrl/HiddenGoal --env-set tries=8 --agent flow-ppo
  python experiments/run.py --env HalfCheetah --agent flow-bc --demos halfcheetah/flow-sac-v0
  python experiments/run.py --env HalfCheetah --agent flow-sac --from runs/HalfCheetah-v5/flow-bc/...
  python experiments/run.py --config tuned.yaml --seed 3
  python experiments/run.py --resume runs/HalfCheetah-v5/flow-sac/2026-01-31_12-00-00_seed0
  tensorboard --logdir runs
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: the arguments; those of the process by default
    :return: the arguments; None where a default is decided later
    """
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Train a named agent in an environment; everything it writes goes to one run directory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to train")
    what.add_argument("--env", help="environment: a short name (newest version), a full id, or module:Id")
    what.add_argument("--agent", help="flow-sac (default), flow-ppo, nfac, nfq, snf, flow-bc, sac, ppo, bc")
    what.add_argument("--flow", help="the flow agents' recipe (nsf, gaussian, ...; see --list)")
    what.add_argument("--set", metavar="KEY=VALUE", action="append", help="any hyperparameter; repeatable")
    what.add_argument(
        "--env-set", metavar="KEY=VALUE", action="append", help="any argument of the environment; repeatable"
    )
    what.add_argument(
        "--config", metavar="FILE", type=Path, help="these options from a YAML file; what is typed comes after them"
    )
    what.add_argument("--list", action="store_true", help="list agents, flows and known environments")

    what.add_argument(
        "--demos", metavar="NAME", help="flow-bc, bc: the Minari data set to clone; nfq: to learn from (see collect.py)"
    )
    what.add_argument(
        "--from",
        dest="source",
        metavar="RUN_DIR",
        help="flow-sac, sac: start with that run's actor; for learning_starts (3000 or more) steps only critics learn, "
        "and with hindsight replay the first episode of each environment is of random actions. "
        "nfq: with all that a run of nfq has learned, also in another task",
    )

    how = parser.add_argument_group("how to train")
    how.add_argument("--steps", type=positive, help="environment steps, or updates of flow-bc and bc, in all")
    how.add_argument("--seed", type=seed, help="seed of everything (default: 0)")
    how.add_argument("--num-envs", type=positive, help="environments side by side (default: the agent's)")
    how.add_argument(
        "--vec-env",
        choices=("dummy", "subproc", "envpool"),
        help="step them in turn (default), each in a process of its own, or in EnvPool's threads",
    )
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: auto")
    how.add_argument(
        "--matmul-precision",
        choices=("highest", "high", "medium"),
        help="torch.set_float32_matmul_precision; medium: products in bfloat16 where that is faster (default: torch's)",
    )
    how.add_argument(
        "--resume", metavar="RUN_DIR", help="go on with a run, or from one of its newest two checkpoints/step_*"
    )
    how.add_argument(
        "--plain", action="store_const", const=True, help="flow-sac, flow-ppo: the update is Stable-Baselines3's own"
    )

    output = parser.add_argument_group("what to write")
    output.add_argument("--logdir", help="where run directories go (default: runs)")
    output.add_argument(
        "--eval-every",
        type=natural,
        metavar="STEPS",
        help="steps between evaluations; 0: never (default: 10000, fewer in a short run)",
    )
    output.add_argument(
        "--eval-episodes",
        type=positive,
        metavar="N",
        help="episodes per evaluation, twice: deterministic, sampled (default: 10)",
    )
    output.add_argument(
        "--checkpoint-every",
        type=natural,
        metavar="STEPS",
        help="steps between checkpoints; 0: only at the end (default: 50000)",
    )
    output.add_argument("--track", choices=("wandb", "trackio"), help="log the scalars there as well")
    output.add_argument("--no-progress", action="store_true", help="plain lines instead of a progress bar")

    arguments = parser.parse_args(argv)
    if arguments.config:
        from experiments.training.config_file import read_config

        options = [name for name in vars(arguments) if name not in ("config", "list", "source")]
        words = read_config(arguments.config, [*options, "from"])
        arguments = parser.parse_args([*words, *(sys.argv[1:] if argv is None else argv)])
    if not (arguments.list or arguments.resume or arguments.env):
        parser.error("the following arguments are required: --env (or --resume, or --list)")
    return arguments


def positive(text: str) -> int:
    """
    Read a number of at least one, with ``1_000_000`` and ``1e6`` understood.

    :param text: the argument
    :return: the number
    """
    number = natural(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def seed(text: str) -> int:
    """
    Read a seed of random numbers, as numpy takes them.

    :param text: the argument
    :return: the number
    """
    number = natural(text)
    if number >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: the largest is 2**32 - 1")
    return number


def natural(text: str) -> int:
    """
    Read a number of at least zero, with ``1_000_000`` and ``1e6`` understood.

    :param text: the argument
    :return: the number
    """
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not (0 <= number < math.inf and number == int(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(number)


def print_list() -> None:
    """Print agents, flows and the environments that have hyperparameters of their own."""
    import flowrl
    from agents import AGENTS
    from agents.hyperparameters import TABLES
    from experiments.training.environments import newest_ids
    from flowrl.flows.options import options_of
    from flowrl.flows.recipes import find_flow

    print("agents:")
    for agent in AGENTS.values():
        print(f"  {agent.name:<10} {agent.description}")
    print("\nflows (--flow), and their options (--set policy_kwargs.flow_kwargs.OPTION=VALUE):")
    for flow in flowrl.available_flows():
        description = (find_flow(flow).__doc__ or "").partition("\n")[0]
        takers = ", ".join(agent.name for agent in AGENTS.values() if agent.default_flow == flow)
        print(f"  {flow:<10} {description}{f' (the default of {takers})' if takers else ''}")
        options = options_of(find_flow(flow))
        if options:
            print(f"  {'':<10} {', '.join(f'{option.name}={option.default!r}' for option in options)}")
    print(
        "\nenvironments with hyperparameters of their own (--env); any other with continuous actions has the defaults:"
    )
    for name, full_id in newest_ids(dict.fromkeys(name for _, table in TABLES.values() for name in table)).items():
        print(f"  {name:<24} {full_id}")


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    arguments = parse_arguments(argv)
    if arguments.list:
        print_list()
        return 0
    from experiments.training.training import resume, start  # torch takes seconds to import: not before --help

    return resume(arguments) if arguments.resume else start(arguments)


if __name__ == "__main__":
    sys.exit(main())
