"""How good a model is as it learns: episodes with its deterministic and with sampled actions, every so often."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from experiments.training.clock import TrainingClock
from experiments.training.full_disk import when_there_is_space
from experiments.training.progress import say
from experiments.training.run_directory import RunDirectory, best_return
from flowrl.callbacks import isolated_random_numbers, next_multiple


class Evaluation(BaseCallback):
    """
    Play some episodes every so often, with deterministic and then with sampled actions; keep the best model.

    A policy of several modes can be good when it samples and poor at the one action that stands for all of them, and a
    noisy policy the other way round. So the best model is that of the highest mean return in either way of acting.

    Neither the training environment nor the random numbers of training take part, and the episodes depend on the seed
    and the step alone: training with and without evaluations is the same, and so is a resumed run's evaluation.

    :param run: where the results and the best model go
    :param env: an environment of its own, wrapped as the training environment is
    :param every: steps between evaluations; 0: never
    :param episodes: episodes per evaluation and way of acting
    :param seed: the run's seed
    :param clock: stands still meanwhile
    :param console: where each result is printed
    """

    def __init__(
        self,
        run: RunDirectory,
        env: VecEnv,
        every: int,
        episodes: int,
        seed: int,
        clock: TrainingClock,
        console: Console,
    ) -> None:
        super().__init__()
        self.run, self.env, self.every, self.episodes, self.seed = run, env, every, episodes, seed
        self.clock, self.console = clock, console

    def _on_training_start(self) -> None:
        self.best = self.run.best_return()
        self.window = (self.num_timesteps, self.clock.training)
        self.next_step = next_multiple(self.num_timesteps, self.every)

    def _on_step(self) -> bool:
        if self.every > 0 and self.num_timesteps >= self.next_step:
            self.next_step = next_multiple(self.num_timesteps, self.every)
            self.evaluate()
        return True

    def evaluate_at_end(self) -> None:
        """Evaluate the model that training ended with, unless that has just been done."""
        if self.every > 0 and self.run.lacks_evaluation(self.model.num_timesteps):
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluate the model as it is."""
        step, seconds = self.model.num_timesteps, self.clock.training
        taken = step - self.window[0]  # none where a run is resumed for its last evaluation
        steps_per_second = taken / max(seconds - self.window[1], 1e-9) if taken else float("nan")
        self.window = (step, seconds)
        with self.clock.paused():
            returns, lengths, tasks = self._play(step, deterministic=True)
            sampled, _, _ = self._play(step, deterministic=False)
            row = dict(
                step=step,
                mean_return=returns.mean(),
                std_return=returns.std(),
                min_return=returns.min(),
                max_return=returns.max(),
                sampled_mean_return=sampled.mean(),
                sampled_std_return=sampled.std(),
                episodes=len(returns),
                mean_length=lengths.mean(),
                wall_seconds=round(self.clock.wall, 3),
                training_seconds=round(seconds, 3),
                steps_per_second=round(steps_per_second, 3),
            )
            when_there_is_space(lambda: self.run.add_evaluation(row), "an evaluation", self.console)
            self.logger.record("eval/mean_reward", row["mean_return"])
            self.logger.record("eval/std_reward", row["std_return"])
            self.logger.record("eval/sampled_mean_reward", row["sampled_mean_return"])
            self.logger.record("eval/sampled_std_reward", row["sampled_std_return"])
            self.logger.record("eval/mean_ep_length", row["mean_length"])
            for task in sorted({task for task in tasks if task is not None}):
                of_task = [value for value, name in zip(returns, tasks, strict=True) if name == task]
                self.logger.record(f"tasks/{task}/eval_return", np.mean(of_task))
            self.logger.record("time/total_timesteps", step, exclude="tensorboard")
            self.logger.dump(step)
            is_best = best_return(row) > self.best
            if is_best:
                self.best = best_return(row)
                when_there_is_space(lambda: self.run.save_model(self.model, "best"), "the best model", self.console)
        say(
            self.console,
            f"step {step:>9,}  evaluation {row['mean_return']:.1f} ± {row['std_return']:.1f},"
            f" sampled {row['sampled_mean_return']:.1f} ± {row['sampled_std_return']:.1f}"
            f"  {steps_per_second:,.0f} steps/s{'  best so far' if is_best else ''}",
        )

    def _play(
        self, step: int, deterministic: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str | None]]:
        """Returns, lengths and tasks (None where there are none) of some episodes, alike in both ways of acting."""
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.env)
        seed = (self.seed + 1_000_003 * (step + 1)) % 2**31
        self.env.seed(seed)
        tasks: list[str | None] = []

        def note_task(now: dict[str, Any], _: dict[str, Any]) -> None:
            if now["done"]:
                task = now["info"].get("task")
                tasks.append(None if task is None else str(task))  # a user's may be an array

        with isolated_random_numbers(self.model.device):
            torch.manual_seed(seed)
            returns, lengths = evaluate_policy(
                self.model,
                self.env,
                self.episodes,
                deterministic=deterministic,
                callback=note_task,
                return_episode_rewards=True,
            )
        return np.asarray(returns), np.asarray(lengths), tasks
