"""Take what a run learned elsewhere: ``python experiments/export.py RUN_DIR --to policy.safetensors``.

``--onnx FILE`` writes an ONNX model, ``--hub OWNER/NAME`` uploads the policy with a model card to the Hugging Face Hub
(``--dry-run FOLDER`` writes what would be uploaded to a folder).
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

from stable_baselines3.common.base_class import BaseAlgorithm

from experiments.evaluate import load
from experiments.reports.learning_curves import collect, draw
from experiments.training.checkpoints import saved_step
from experiments.training.environments import Environment
from experiments.training.errors import UsageError, one_line_errors
from experiments.training.run_directory import RunDirectory
from flowrl.export import Evaluation, push_to_hub, save_policy, to_onnx, write_model_folder


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: the arguments; those of the process by default
    :return: the arguments
    """
    parser = argparse.ArgumentParser(prog="export.py", description="Take a trained policy elsewhere.")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="what experiments/run.py wrote")
    parser.add_argument("--model", choices=("best", "last"), default="best", help="which model (default: best)")
    parser.add_argument("--to", metavar="FILE", type=Path, help="a safetensors file, which runs nothing when opened")
    parser.add_argument("--onnx", metavar="FILE", type=Path, help="an ONNX model")
    outputs = ("action", "sample", "log_prob")
    parser.add_argument("--output", choices=outputs, help="of the ONNX model (default: action)")
    parser.add_argument("--hub", metavar="OWNER/NAME", help="a repository of the Hugging Face Hub")
    parser.add_argument("--private", action="store_true", help="whether a new repository is")
    parser.add_argument("--dry-run", metavar="FOLDER", type=Path, help="write what --hub would upload to a folder")
    arguments = parser.parse_args(argv)
    if not (arguments.to or arguments.onnx or arguments.hub):
        parser.error("nothing to do: give --to FILE, --onnx FILE or --hub OWNER/NAME")
    if arguments.private and not arguments.hub:
        parser.error("--private goes with --hub OWNER/NAME")
    if arguments.output and not arguments.onnx:
        parser.error("--output goes with --onnx FILE")
    if arguments.dry_run and not arguments.hub:
        parser.error("--dry-run goes with --hub OWNER/NAME")
    return arguments


def evaluations_of(run: RunDirectory, which: str) -> list[Evaluation]:
    """
    What the model that was saved reached in the run's own evaluation.

    :param run: the run
    :param which: ``"best"`` or ``"last"``
    :return: of deterministic and of sampled actions; none where that step was not evaluated
    """
    step = saved_step(run.path / f"{which}_model.zip")
    found = []
    for row in [row for row in run.evaluations() if row["step"] == step][-1:]:
        for actions, prefix in (("deterministic", ""), ("sampled", "sampled_")):
            mean, std = row[f"{prefix}mean_return"], row[f"{prefix}std_return"]
            if mean == mean:  # NaN: not measured
                found.append(Evaluation(actions, mean, std, int(row["episodes"]), int(step)))
    return found


def notes_of(run: RunDirectory) -> str:
    """
    The circumstances of a run.

    :param run: the run
    :return: in Markdown
    """
    session = run.config["sessions"][-1]
    git = session.get("git") or {}
    commit = f"commit {git['commit']}{', with changes' if git.get('dirty') else ''}" if git else "outside a repository"
    versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items() if version)
    return f"Seed {run.config['seed']}, {commit}; {versions}."


def card_of(run: RunDirectory, which: str, folder: Path) -> dict[str, Any]:
    """
    What a model card says of a run.

    :param run: the run
    :param which: ``"best"`` or ``"last"``
    :param folder: for the picture of the learning curve
    :return: arguments of `flowrl.export.write_model_folder`
    """
    curve = None
    if run.evaluations():
        curve = folder / "curve.png"
        draw(collect([run])).savefig(curve, dpi=120)
    environment = Environment.of(run.config)  # with tuples, of which JSON makes lists
    return dict(
        environment=environment.id,
        environment_kwargs=environment.kwargs,
        agent=run.config["agent"],
        evaluations=evaluations_of(run, which),
        command="\n".join(session["command"] for session in run.config["sessions"]),
        learning_curve=curve,
        notes=notes_of(run),
    )


def to_hub(model: BaseAlgorithm, run: RunDirectory, arguments: argparse.Namespace) -> str:
    """
    Upload a model with its card, or write both to a folder.

    :param model: the model
    :param run: where it comes from
    :param arguments: the command line
    :return: where it is now
    """
    with tempfile.TemporaryDirectory() as folder:
        card = card_of(run, arguments.model, Path(folder))
        if arguments.dry_run:
            return str(write_model_folder(model, arguments.dry_run, name=arguments.hub, **card))
        return push_to_hub(model, arguments.hub, private=arguments.private, **card)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    arguments = parse_arguments(argv)
    run = RunDirectory.open(arguments.run)
    model, _ = load(run, arguments.model, "cpu")
    try:
        if arguments.to:
            print(f"wrote {save_policy(model, arguments.to)}")
        if arguments.onnx:
            print(f"wrote {to_onnx(model, arguments.onnx, arguments.output or 'action')}")
        if arguments.hub:
            print(f"wrote {to_hub(model, run, arguments)}")
    except (ValueError, OSError, ImportError) as error:  # OSError: the Hub's errors too
        raise UsageError(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
