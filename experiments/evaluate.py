"""Evaluate a trained agent: ``python experiments/evaluate.py RUN_DIR [--video]``.

Or a policy that `experiments/export.py --to` wrote: ``python experiments/evaluate.py POLICY.safetensors --env Hopper``.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ and experiments/ are not installed

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from experiments.run import positive, seed
from experiments.training.environments import Environment, find_environment, make_vector_environment
from experiments.training.errors import UsageError, one_line_errors
from experiments.training.run_directory import RunDirectory

VIDEO_SIZE = 16  # video codecs want sides that are multiples of this


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """
    Read the command line.

    :param argv: the arguments; those of the process by default
    :return: the arguments
    """
    parser = argparse.ArgumentParser(prog="evaluate.py", description="Report a trained agent's return.")
    parser.add_argument(
        "run", metavar="RUN_DIR", type=Path, help="what experiments/run.py wrote, or a policy's *.safetensors"
    )
    parser.add_argument("--env", help="what a *.safetensors policy acts in; a run says so itself")
    parser.add_argument("--model", choices=("best", "last"), default="best", help="which model (default: best)")
    parser.add_argument("--episodes", type=positive, default=10, metavar="N", help="default: 10")
    parser.add_argument("--seed", type=seed, default=12345, help="of environment and sampling (default: 12345)")
    parser.add_argument("--stochastic", action="store_true", help="sampled actions alone, in the video too")
    parser.add_argument(
        "--video", action="store_true", help="also write one episode as mp4, or gif, to the run directory"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    return parser.parse_args(argv)


def load(run: RunDirectory, which: str, device: str, **kwargs: Any) -> tuple[BaseAlgorithm, VecEnv]:
    """
    Load a model and an environment for it to act in.

    :param run: the run
    :param which: ``"best"`` or ``"last"``
    :param device: where the model shall live
    :param kwargs: further arguments of ``gymnasium.make``
    :return: the model and the environment
    """
    config = run.config
    environment = Environment.of(config)
    find_environment(environment.id)  # imports the module that registers it
    env = make_vector_environment(
        environment, 1, config["normalize"], config["hyperparameters"]["gamma"], training=False, **kwargs
    )
    return run.load_model(run.agent.algorithm, which, env, device), env


def load_file(path: Path, env: str | None, device: str) -> tuple[BasePolicy, VecEnv]:
    """
    Load a policy from a safetensors file, and an environment for it to act in.

    :param path: the file
    :param env: the environment's name
    :param device: where the policy shall live
    :return: the policy and the environment
    """
    if env is None:
        raise UsageError(f"{path} does not say what it acts in: --env NAME")
    try:
        from flowrl.export import load_policy  # an extra

        policy = load_policy(path, device)
    except (ImportError, ValueError) as error:
        raise UsageError(str(error)) from error
    venv = make_vector_environment(find_environment(env), 1, normalize=False, gamma=1.0, training=False)
    for name in ("observation_space", "action_space"):
        if not _alike(getattr(policy, name), getattr(venv, name)):
            raise UsageError(f"--env {env} has another {name} than {path}: {getattr(venv, name)}")
    return policy, venv


def _alike(first: spaces.Space, second: spaces.Space) -> bool:
    """Whether spaces have the same parts of the same shapes, whatever their bounds."""
    if isinstance(first, spaces.Dict) and isinstance(second, spaces.Dict):
        return first.keys() == second.keys() and all(_alike(first[key], second[key]) for key in first)
    return type(first) is type(second) and first.shape == second.shape


def report(model: BaseAlgorithm | BasePolicy, env: VecEnv, name: str, arguments: argparse.Namespace) -> None:
    """
    Play episodes with deterministic actions and with sampled ones, and print the returns.

    :param model: a model or a policy
    :param env: what it acts in
    :param name: of the model
    :param arguments: the command line
    """
    for deterministic in (False,) if arguments.stochastic else (True, False):
        set_random_seed(arguments.seed, using_cuda=model.device.type == "cuda")
        env.seed(arguments.seed)  # the episodes start alike
        returns, lengths = evaluate_policy(
            model, env, arguments.episodes, deterministic=deterministic, return_episode_rewards=True
        )
        assert isinstance(returns, list)
        print(
            f"{name}, {'deterministic' if deterministic else 'sampled'} actions: return {np.mean(returns):.1f} "
            f"± {np.std(returns):.1f} over {len(returns)} episodes (mean length {np.mean(lengths):.0f})"
        )


def record_episode(model: BaseAlgorithm, env: VecEnv, deterministic: bool) -> list[NDArray[np.uint8]]:
    """
    Play one episode and keep its pictures.

    :param model: the model
    :param env: an environment with ``render_mode="rgb_array"``
    :param deterministic: whether to take the deterministic actions
    :return: the frames
    """
    frames, obs, done = [], env.reset(), False
    while not done:
        frame = env.render()
        assert frame is not None
        height, width = (side - side % VIDEO_SIZE for side in frame.shape[:2])
        frames.append(np.ascontiguousarray(frame[:height, :width]))
        actions, _ = model.predict(obs, deterministic=deterministic)  # type: ignore[arg-type]
        obs, _, dones, _ = env.step(actions)
        done = bool(dones[0])
    return frames


def write_video(frames: list[NDArray[np.uint8]], path: Path, frames_per_second: int) -> Path:
    """
    Write frames as mp4, or as gif where there is no mp4 encoder.

    :param frames: pictures of one size
    :param path: the file, without its suffix
    :param frames_per_second: the speed
    :return: the file that was written
    """
    try:
        import imageio.v2 as imageio
    except ImportError:
        raise UsageError("--video needs the 'video' extra: pip install -e '.[video]'") from None
    mp4, gif = path.with_suffix(".mp4"), path.with_suffix(".gif")
    try:
        imageio.mimsave(mp4, [*frames], fps=frames_per_second, macro_block_size=VIDEO_SIZE)
        return mp4
    except (ImportError, ValueError, OSError):  # no imageio-ffmpeg, or it has no encoder here
        mp4.unlink(missing_ok=True)
        imageio.mimsave(gif, [*frames[::2]], duration=2000 / frames_per_second, loop=0)
        return gif


def make_video(run: RunDirectory, arguments: argparse.Namespace) -> Path:
    """
    Record one episode to the run directory.

    :param run: the run
    :param arguments: the command line
    :return: the file
    """
    try:
        model, env = load(run, arguments.model, arguments.device, render_mode="rgb_array")
        env.seed(arguments.seed)
        frames = record_episode(model, env, deterministic=not arguments.stochastic)
    except UsageError:
        raise
    except Exception as error:  # the many ways in which OpenGL can be missing
        raise UsageError(
            f"--video: the environment does not render here ({type(error).__name__}: {error}). MuJoCo needs OpenGL: "
            "without a screen set MUJOCO_GL=egl (with a GPU) or MUJOCO_GL=osmesa (with the OSMesa library)"
        ) from error
    frames_per_second = int(env.get_attr("metadata")[0].get("render_fps", 30))
    env.close()
    return write_video(frames, run.path / f"{arguments.model}_model", frames_per_second)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """
    Run the command.

    :param argv: the arguments; those of the process by default
    :return: the exit code
    """
    arguments = parse_arguments(argv)
    if arguments.video and sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when MuJoCo is imported, which is when it makes an environment
    if arguments.run.suffix == ".safetensors":
        if arguments.video:
            raise UsageError("--video writes to a run directory: give RUN_DIR")
        policy, env = load_file(arguments.run, arguments.env, arguments.device)
        report(policy, env, f"{arguments.run.name} on {arguments.env}", arguments)
        return 0
    if arguments.env is not None:
        raise UsageError("--env goes with a policy's *.safetensors; a run says itself what it acts in: drop --env")
    run = RunDirectory.open(arguments.run)
    model, env = load(run, arguments.model, arguments.device)
    name = f"{run.config['agent']} on {run.config['environment']['id']}, {arguments.model} model"
    report(model, env, name, arguments)
    if arguments.video:
        print(f"wrote {make_video(run, arguments)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
