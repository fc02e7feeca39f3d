"""A search for hyperparameters: an Optuna study in a file, whose trials are runs of ``run.py``."""

import sys
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from agents import find_agent
from agents.search_spaces import Between, Space, search_space
from experiments.scheduling.job import Job, Processes, execute
from experiments.scheduling.local import stopping_on_signals
from experiments.scheduling.locks import is_locked, locked
from experiments.training.errors import UsageError
from experiments.training.overrides import agent_on_base
from experiments.training.run_directory import RunDirectory, best_return

JOURNAL = "study.log"
BEGINNING = "beginning.lock"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Stopped(Exception):
    """The search was asked to stop."""


@dataclass(frozen=True)
class Search:
    """
    A search.

    :param directory: of the study and its runs
    :param space: what is searched
    :param words: of ``run.py``, for all trials
    :param steps: of each run
    :param seeds: of each trial's runs
    :param threads: of each run
    :param prunes: whether what falls behind is stopped
    """

    directory: Path
    space: Space
    words: tuple[str, ...]
    steps: int
    seeds: tuple[int, ...]
    threads: int
    prunes: bool

    @classmethod
    def of(cls, arguments: Namespace) -> "Search":
        """
        :param arguments: the command line of ``tune.py``
        :return: the search
        """
        try:
            agent = agent_on_base(find_agent(arguments.agent), arguments.set)
            # A flow or a key that is given is not searched.
            given = {setting.partition("=")[0] for setting in arguments.set}
            space = search_space(agent.table, bool(agent.flow), arguments.only)
        except ValueError as error:
            raise UsageError(str(error)) from None
        words = ["--env", arguments.env, "--agent", arguments.agent]
        words += ["--eval-every", str(arguments.eval_every or max(arguments.steps // 10, 1))]
        words += [word for setting in arguments.set for word in ("--set", setting)]
        name = arguments.name or f"{arguments.agent}-{arguments.env}".replace("/", "_")
        return cls(
            (arguments.runs / name).absolute(),
            {key: values for key, values in space.items() if key not in given},
            tuple(words),
            arguments.steps,
            tuple(range(arguments.first_seed, arguments.first_seed + arguments.seeds)),
            arguments.threads,
            not arguments.no_pruning,
        )

    def study(self) -> optuna.Study:
        """The study in its file, new or as it stands."""
        self.directory.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(self.directory / JOURNAL)))
        # The first five trials are never pruned; the first ten are drawn at random.
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if self.prunes else optuna.pruners.NopPruner()
        study = optuna.create_study(
            study_name=self.directory.name,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            pruner=pruner,
            sampler=optuna.samplers.TPESampler(multivariate=True, n_startup_trials=10),
        )
        searched = [*self.words, str(self.steps), str(self.seeds), *map(str, sorted(self.space.items()))]
        others = study.user_attrs.get("searched", searched) != searched
        if others and study.get_trials(deepcopy=False, states=(*ENDED, TrialState.RUNNING)):
            raise UsageError(f"{self.directory} is a study of other settings: choose another --name")
        study.set_user_attr("searched", searched)
        return study

    def suggest(self, trial: optuna.Trial) -> dict[str, str]:
        """Hyperparameters to try, as one types them."""
        chosen = {}
        for key, values in self.space.items():
            if isinstance(values, Between):
                chosen[key] = f"{trial.suggest_float(key, values.low, values.high, log=values.log):.4g}"
            else:
                chosen[key] = trial.suggest_categorical(key, values.values)
        return chosen

    def objective(self, trial: optuna.Trial, processes: Processes) -> float:
        """
        Train a trial.

        :param trial: the trial
        :param processes: by which its runs can be stopped
        :return: the mean of the last three evaluations' returns, over the seeds; of each evaluation the better of the
            deterministic actions' and the sampled ones'
        :raises UsageError: for what ``run.py`` refuses before any trial has been trained: it may refuse all
        """
        settings = [word for key, value in self.suggest(trial).items() for word in ("--set", f"{key}={value}")]
        jobs = [self._job(trial.number, seed, settings) for seed in self.seeds]
        scores: list[float] = []
        for seed, job in zip(self.seeds, jobs, strict=True):
            own = Processes(processes.outlive_us)
            with ThreadPoolExecutor(1) as pool:
                training = pool.submit(execute, job, self.threads, own)
                reported = 0
                while not training.done():
                    time.sleep(0.2)
                    if processes.stopping and not own.stopping:  # a second signal would not let it save
                        own.stop()
                    # Later seeds of a trial are compared with nothing: Optuna takes one value a step.
                    reported = self._report(trial, job, reported) if seed == self.seeds[0] else reported
                    if seed == self.seeds[0] and not own.stopping and trial.should_prune():
                        own.stop()
                outcome = training.result()
            if processes.stopping:
                raise Stopped
            if outcome == "interrupted":
                raise optuna.TrialPruned
            if outcome.startswith("refused: ") and not trial.study.get_trials(deepcopy=False, states=ENDED):
                said = outcome.removeprefix("refused: ").removeprefix("error: ")
                raise UsageError(f"run.py refuses trial {trial.number}, which does not count: {said}")
            if outcome != "finished":  # diverged, or a combination that run.py refuses: no reason to stop searching
                trial.set_user_attr("failed", outcome)
                raise optuna.TrialPruned
            scores.append(float(np.mean([best_return(row) for row in _evaluations(job)[-3:]])))
        return float(np.mean(scores))

    def _report(self, trial: optuna.Trial, job: Job, reported: int) -> int:
        rows = _evaluations(job)
        for row in rows[reported:]:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process counted the trial out
                trial.report(best_return(row), int(row["step"]))
        return len(rows)

    def write_best(self) -> None:
        """Write ``best.yaml``, and pictures of the study where there are enough trials for them; print the best."""
        study = self.study()
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        if not complete:
            failures = [trial.user_attrs["failed"] for trial in study.trials if "failed" in trial.user_attrs]
            raise UsageError(f"no trial was trained to its end{': ' + failures[-1] if failures else ''}")
        best = study.best_trial
        options = dict(zip(self.words[::2], self.words[1::2], strict=True))
        fixed = [self.words[i + 1] for i, word in enumerate(self.words) if word == "--set"]
        chosen = {key: value for key, _, value in (setting.partition("=") for setting in fixed)}
        chosen |= self.suggest(optuna.trial.FixedTrial(best.params))  # type: ignore[arg-type]
        flow = self._flow_of(best.number)
        if flow is not None:  # named, so that the file means the same when a default changes
            chosen.setdefault("policy_kwargs.flow", flow)
        content = dict(env=options["--env"], agent=options["--agent"], set=chosen)
        path = self.directory / "best.yaml"
        path.write_text(
            f"# {len(complete)} trials of {self.steps:,} steps; the best, trial {best.number}: {best.value:.1f}\n"
            + yaml.safe_dump(content, sort_keys=False)
        )
        self._draw(study, len(complete))
        print(f"trial {best.number} is the best of {len(complete)}: {best.value:.1f}")
        for key, value in chosen.items():
            print(f"    {key}={value}")
        print(f"to train with it: python experiments/run.py --config {path}")

    def _flow_of(self, number: int) -> str | None:
        """The flow that a trial was trained with; None: its policy is a Gaussian."""
        path = self._job(number, self.seeds[0], []).run_directory()
        return RunDirectory(path).config.get("flow") if path else None

    def _job(self, number: int, seed: int, settings: list[str]) -> Job:
        """A seed of a trial."""
        directory = self.directory / f"trial{number}" / f"seed{seed}"
        return Job(directory, (*self.words, *settings, "--seed", str(seed)), self.steps)

    def _draw(self, study: optuna.Study, n_complete: int) -> None:
        import warnings

        import matplotlib

        matplotlib.use("Agg")
        from optuna.visualization import matplotlib as pictures

        drawn: dict[str, Any] = dict(history=pictures.plot_optimization_history)
        if n_complete > 3 and len(self.space) > 1:
            drawn["importance"] = pictures.plot_param_importances
        for name, draw in drawn.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its matplotlib pictures are experimental
                figure = draw(study).figure
            figure.set_size_inches(8, 4.5)
            figure.savefig(self.directory / f"{name}.png", dpi=140, bbox_inches="tight")


def run_search(search: Search, trials: int, side_by_side: int, address: str | None) -> None:
    """
    Train until the study has so many trials.

    :param search: the search
    :param trials: in all, those of other processes among them
    :param side_by_side: at once, of this process or on the cluster
    :param address: of a Ray cluster; None: on this machine
    """
    forget_the_dead(search)
    if address is not None:
        from experiments.scheduling.ray_cluster import connected

        with connected(address):
            import ray

            remote: Any = ray.remote(num_cpus=search.threads, max_retries=0)(optimize)
            try:
                ray.get([remote.remote(search, trials) for _ in range(side_by_side)])
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UsageError):
                    raise error.cause from None
                raise
        return
    processes = Processes()
    with stopping_on_signals(processes), ThreadPoolExecutor(side_by_side) as pool:
        try:
            for future in as_completed([pool.submit(optimize, search, trials, processes) for _ in range(side_by_side)]):
                future.result()
        except BaseException:
            processes.stop()  # else the others would train all trials that are left before this is shown
            raise
    if processes.stopping:
        print("interrupted: the same command goes on with the study", file=sys.stderr)


def optimize(search: Search, trials: int, processes: Processes | None = None) -> None:
    """
    Train trial after trial.

    :param search: the search
    :param trials: of the study in all
    :param processes: by which it can be stopped
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, processes = search.study(), processes or Processes(outlive_us=False)
    while not processes.stopping:
        with ExitStack() as until_it_ends:
            with locked(search.directory / BEGINNING):  # nobody counts or finds it begun and not yet locked
                begun = study.get_trials(deepcopy=False)
                if sum(trial.state in (*ENDED, TrialState.RUNNING) for trial in begun) >= trials:
                    return
                trial = study.ask()
                until_it_ends.enter_context(locked(search.directory / f"trial{trial.number}" / "lock"))
            try:
                value = search.objective(trial, processes)
            except optuna.TrialPruned:
                _tell(study, trial.number, state=TrialState.PRUNED)
            except Stopped:
                _tell(study, trial.number, state=TrialState.FAIL)
                return
            except BaseException:
                _tell(study, trial.number, state=TrialState.FAIL)
                raise
            else:
                _tell(study, trial.number, values=value)
        ended = study.get_trials(deepcopy=False)[trial.number]
        said = f"{ended.value:.1f}" if ended.state == TrialState.COMPLETE else ended.user_attrs.get("failed", "stopped")
        print(f"trial {trial.number}: {said}", flush=True)


def forget_the_dead(search: Search) -> None:
    """
    Count out trials whose process was killed, so that others are tried in their place.

    :param search: the search; trials that another living process trains are left alone
    """
    study = search.study()
    with locked(search.directory / BEGINNING):
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            directory = search.directory / f"trial{trial.number}"
            # Its process holds the first; its runs, which may outlive that, the others.
            if not any(is_locked(lock) for lock in (directory / "lock", *directory.glob("seed*/lock"))):
                _tell(study, trial.number, state=TrialState.FAIL)


def _tell(study: optuna.Study, number: int, **outcome: Any) -> None:
    """Unless another process counted the trial out, where locks are missing."""
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        study.tell(number, skip_if_finished=True, **outcome)


def _evaluations(job: Job) -> list[dict[str, float]]:
    path = job.run_directory()
    return RunDirectory(path).evaluations() if path else []
