"""One training run from its arguments to its last model: started fresh or resumed."""

import math
import os
import shlex
from argparse import Namespace
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from rich.console import Console
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import flowrl
from agents import Agent, find_agent, hyperparameters, make_agent, model_arguments
from experiments.training import demonstrations
from experiments.training.callbacks import Checkpoints, DumpLogs, Interruption, UpdateForm
from experiments.training.checkpoints import has_finite_weights
from experiments.training.clock import TrainingClock
from experiments.training.continuation import restore_continuation
from experiments.training.environments import (
    Environment,
    NonFiniteAction,
    NonFiniteObservation,
    check_options,
    find_environment,
    make_environment,
    make_vector_environment,
    with_options,
)
from experiments.training.errors import Resumable, TrainingError, UsageError, did_you_mean
from experiments.training.evaluation import Evaluation
from experiments.training.fine_tuning import CriticWarmup, open_source, settings_of_source, take_policy
from experiments.training.full_disk import when_there_is_space
from experiments.training.lessons import missing_lessons
from experiments.training.overrides import agent_on_base, apply_overrides, check_flow_options
from experiments.training.precision import matmul_precision
from experiments.training.progress import ProgressDisplay, say
from experiments.training.provenance import ROOT, session
from experiments.training.run_directory import RunDirectory
from experiments.training.tracking import TrackingWriter, import_tracker
from experiments.training.workers import WorkerLost
from flowrl.algorithms import BehaviourCloning
from flowrl.algorithms.offline import OfflineMixin
from flowrl.callbacks import DensityFigure, FlowLogger, TaskReturns

MAX_LOG_EVERY = 1_000  # steps; short runs log more often
MAX_EVAL_ENVS = 10  # a policy acts in ten states in little more time than in one
SET_BY_DATA = dict(
    buffer_size="the replay buffer is the data set",
    learning_starts="learning starts at the first step",
    gradient_steps="every step is one update",
)
INTERRUPTED = 130  # what a shell reports for a process that Ctrl-C ended


def start(arguments: Namespace) -> int:
    """
    Train a new agent.

    :param arguments: the command line
    :return: the exit code
    """
    environment = with_options(find_environment(arguments.env), arguments.env_set or ())
    try:
        agent = find_agent(arguments.agent or "flow-sac")
    except ValueError as error:
        raise UsageError(str(error)) from None
    agent = agent_on_base(agent, arguments.set or ())
    device, seed = check_device(arguments.device), arguments.seed or 0
    probe = make_environment(environment)
    check_options(probe, environment)
    probe.close()
    check_source_of_learning(agent, arguments)
    if arguments.plain:
        try:
            agent = agent.in_sb3()
        except ValueError as error:
            raise UsageError(f"--plain: {error}; drop it") from None
    if arguments.track is not None:
        import_tracker(arguments.track)  # now, before anything is written
    source = open_source(Path(arguments.source), agent, environment.id) if arguments.source else None

    settings = hyperparameters(agent.table, environment.name, offline=bool(arguments.demos) and agent.learns_offline)
    if source is not None:
        settings = settings_of_source(settings, source)
    settings = apply_overrides(settings, arguments.set or (), agent, probe.observation_space)
    steps = arguments.steps or settings["steps"]
    n_envs = arguments.num_envs or settings["n_envs"]
    check_episodes(settings, n_envs)
    if not is_set("gradient_steps", arguments):
        settings = keep_update_ratio(settings, n_envs)
    policy_kwargs = settings.setdefault("policy_kwargs", {})
    if agent.flow:
        # Named in full, so that the run means the same when the library's default changes.
        flow = policy_kwargs.get("flow") or settings.get("flow", agent.default_flow)
        if arguments.flow and is_set("policy_kwargs.flow", arguments):
            raise UsageError(f"--flow {arguments.flow} and --set policy_kwargs.flow={flow} say the same: drop one")
        policy_kwargs["flow"] = check_flow(arguments.flow or flow)
        check_flow_options(policy_kwargs["flow"], policy_kwargs.get("flow_kwargs") or {})
    elif arguments.flow:
        raise UsageError(f"--flow {arguments.flow}: {agent.name} has a Gaussian policy; use --agent flow-{agent.name}")

    # With an actor to start with, it acts from the first step on; only new critics need those steps.
    critic_warmup = settings["learning_starts"] if source is not None and not agent.is_its_own_critic else 0
    if arguments.demos or critic_warmup:
        settings["learning_starts"] = 0
    # With a source, learning_starts is that of the critics
    if critic_warmup or not is_set("learning_starts", arguments):
        settings = wait_for_episodes(settings, n_envs, probe)

    config = dict(
        environment=asdict(environment),
        agent=agent.name,
        flow=policy_kwargs.get("flow"),
        seed=seed,
        steps=steps,
        n_envs=n_envs,
        vec_env=arguments.vec_env or "dummy",
        normalize=settings["normalize"],
        plain=bool(arguments.plain),
        matmul_precision=arguments.matmul_precision,
        demonstrations=arguments.demos,
        source=None if source is None else str(source.path.resolve()),
        critic_warmup=critic_warmup,
        eval_every=min(10_000, max(steps // 5, 1)) if arguments.eval_every is None else arguments.eval_every,
        eval_episodes=10 if arguments.eval_episodes is None else arguments.eval_episodes,
        checkpoint_every=50_000 if arguments.checkpoint_every is None else arguments.checkpoint_every,
        hyperparameters=model_arguments(settings),
        arguments=vars(arguments),
        sessions=[],
    )
    try:
        env = training_environment(config)
    except NotImplementedError as error:  # SB3's, of observations that are dictionaries of dictionaries
        raise UsageError(f"--env {arguments.env}: {error}") from error
    try:
        model = make_agent(agent, env, deepcopy(config["hyperparameters"]), seed=seed, device=device)
    except (ValueError, AssertionError, TypeError, RuntimeError, MemoryError) as error:
        raise UsageError(f"{agent.name} refuses these hyperparameters: {error}") from error
    if source is not None:
        take_policy(model, source)
    imitate(model, config)
    run = RunDirectory.create(Path(arguments.logdir or "runs"), environment.id, agent.name, seed)
    with run.locked(), matmul_precision(config["matmul_precision"]):
        return train(run, config, model, TrainingClock(), not arguments.no_progress, arguments.track)


def is_set(key: str, arguments: Namespace) -> bool:
    """
    Whether ``--set`` gives a hyperparameter.

    :param key: of the hyperparameter
    :param arguments: the command line
    """
    return any(override.startswith(f"{key}=") for override in arguments.set or ())


def training_environment(config: dict[str, Any]) -> VecEnv:
    """
    The environments that a run trains in, at the start of their first episodes.

    :param config: the run's
    :return: the environments
    """
    environment, gamma = Environment.of(config), config["hyperparameters"]["gamma"]
    vec_env = config.get("vec_env", "dummy")  # runs of earlier versions had no other
    return make_vector_environment(environment, config["n_envs"], config["normalize"], gamma, vec_env=vec_env)


def check_source_of_learning(agent: Agent, arguments: Namespace) -> None:
    """
    Refuse cloning without a data set, and a data set for what neither clones nor learns offline.

    :param agent: the agent
    :param arguments: the command line
    """
    if agent.imitates and not arguments.demos:
        raise UsageError(
            f"{agent.name} learns from demonstrations: add --demos NAME, a local Minari data set "
            "(python experiments/collect.py RUN_DIR --name NAME records one)"
        )
    if arguments.demos and not (agent.imitates or agent.learns_offline):
        prefix = "flow-" if agent.flow else ""
        raise UsageError(
            f"--demos: {agent.name} learns from rewards; clone with --agent {prefix}bc, then fine-tune with "
            f"--agent {prefix}sac --from RUN_DIR"
        )
    if arguments.demos and arguments.source:
        raise UsageError("--demos and --from: an agent starts from one of the two")
    if arguments.demos and agent.learns_offline:
        for name, reason in SET_BY_DATA.items():
            if is_set(name, arguments):
                raise UsageError(f"--set {name}=...: with --demos {reason}; drop it")
    if arguments.demos and (arguments.num_envs or 1) > 1:
        raise UsageError(f"--num-envs {arguments.num_envs}: {agent.name} learns without stepping in an environment")


def imitate(model: BaseAlgorithm, config: dict[str, Any]) -> None:
    """
    Give a model its data set, if it learns from one: demonstrations to clone, or transitions.

    :param model: the model
    :param config: the run's configuration
    """
    if not config["demonstrations"]:
        return
    probe = make_environment(Environment.of(config))
    probe.close()
    assert isinstance(probe.action_space, spaces.Box)  # make_environment refuses any other
    data_set = (config["demonstrations"], probe.observation_space, probe.action_space)
    try:
        if isinstance(model, BehaviourCloning):
            train, held_out = demonstrations.load(*data_set)
            model.imitate(train, held_out if len(held_out) else None)
        elif isinstance(model, OfflineMixin):
            model.learn_from(demonstrations.load_transitions(*data_set))
            config["hyperparameters"] |= {name: getattr(model, name) for name in SET_BY_DATA}
    except ValueError as error:
        raise UsageError(f"--demos {config['demonstrations']}: {error}") from error


def check_episodes(settings: dict[str, Any], n_envs: int) -> None:
    """
    Refuse updates after whole episodes where several environments side by side end theirs at different steps.

    :param settings: the hyperparameters
    :param n_envs: environments side by side
    """
    frequency = settings.get("train_freq")
    if n_envs > 1 and isinstance(frequency, tuple) and "episode" in frequency:
        raise UsageError(
            f"--set train_freq={frequency}: Stable-Baselines3 updates after episodes of one environment alone, not of "
            f"{n_envs}; add --num-envs 1, or give train_freq in steps"
        )


def wait_for_episodes(settings: dict[str, Any], n_envs: int, env: gym.Env) -> dict[str, Any]:
    """
    Learning that starts no sooner than hindsight replay has an episode from each environment: it draws nothing before.

    :param settings: the hyperparameters
    :param n_envs: environments side by side
    :param env: one of them
    :return: the hyperparameters for that many environments
    """
    limit = env.spec.max_episode_steps if env.spec is not None else None
    if settings.get("replay_buffer_class") is not HerReplayBuffer or limit is None:
        return settings
    return settings | dict(learning_starts=max(settings["learning_starts"], n_envs * limit))


def keep_update_ratio(settings: dict[str, Any], n_envs: int) -> dict[str, Any]:
    """
    As many updates a step as with the table's number of environments: more of them side by side bring more steps.

    :param settings: the hyperparameters; only an off-policy algorithm's hold ``gradient_steps``
    :param n_envs: environments side by side
    :return: the hyperparameters for that many environments
    """
    if settings.get("gradient_steps", -1) < 0:  # -1: Stable-Baselines3 itself counts the steps
        return settings
    gradient_steps = settings["gradient_steps"] * n_envs / settings["n_envs"]
    return settings | dict(gradient_steps=max(round(gradient_steps), 1))


def resume(arguments: Namespace) -> int:
    """
    Go on with a run from its newest checkpoint, or from the checkpoint that is named.

    :param arguments: the command line
    :return: the exit code
    """
    for name in (
        "env",
        "env_set",
        "agent",
        "seed",
        "num_envs",
        "vec_env",
        "flow",
        "set",
        "plain",
        "demos",
        "source",
        "matmul_precision",
        "logdir",
    ):
        if getattr(arguments, name) is not None:
            flag = {"source": "from"}.get(name, name.replace("_", "-"))
            raise UsageError(f"--{flag} cannot change when a run is resumed; drop --{flag}, or start a new run")
    path = Path(arguments.resume)
    named = path if path.parent.name == "checkpoints" else None
    run = RunDirectory.open(path.parent.parent if named else path)
    with run.locked():
        config = run.config
        for name in ("steps", "eval_every", "eval_episodes", "checkpoint_every"):
            if getattr(arguments, name) is not None:
                config[name] = getattr(arguments, name)
        environment = Environment.of(config)
        find_environment(environment.id)  # imports the module that registers it
        agent = run.agent
        algorithm: Any = (agent.in_sb3() if config.get("plain") else agent).algorithm
        before = config.get("arguments", {})
        device = check_device(arguments.device or before.get("device"))
        made: list[VecEnv] = []

        def make_env() -> VecEnv:
            made.append(training_environment(config))
            return made[-1]

        model = run.load_checkpoint(algorithm, named, make_env, device)
        step = model.num_timesteps
        if step >= config["steps"] and not run.lacks_evaluation(step):
            more = f"to train on, add --steps {2 * step}"
            raise UsageError(f"{run.path} is complete at {step:,} steps; {more}")
        imitate(model, config)
        checkpoint = run.path / "checkpoints" / f"step_{step}"
        continues = None if made else checkpoint
        if continues is None:
            # The environment starts a new episode; with the first seed again it would replay the start of the run.
            model.set_random_seed((config["seed"] + step) % 2**32)  # NumPy has no larger ones
        bar = not arguments.no_progress
        tracker = arguments.track or before.get("track")
        with matmul_precision(config.get("matmul_precision")):
            return train(run, config, model, run.clock(step), bar, tracker, continues)


def train(
    run: RunDirectory,
    config: dict[str, Any],
    model: BaseAlgorithm,
    clock: TrainingClock,
    bar: bool,
    tracker: str | None = None,
    continues: Path | None = None,
) -> int:
    """
    Train a model to its last step, or until it is interrupted.

    :param run: where everything is written
    :param config: what ``config.json`` holds
    :param model: the model, new or resumed
    :param clock: the run's
    :param bar: whether to show a progress bar (where stdout is a terminal)
    :param tracker: see `experiments.training.tracking`
    :param continues: the checkpoint whose environments the model goes on in
    :return: the exit code
    """
    config["sessions"].append(session(model))
    # Before anything is written, since it may not start
    writers = [] if tracker is None else [TrackingWriter(tracker, run.path, config)]
    environment = Environment.of(config)
    side_by_side, gamma = min(config["eval_episodes"], MAX_EVAL_ENVS), config["hyperparameters"]["gamma"]
    evaluation_env = make_vector_environment(environment, side_by_side, config["normalize"], gamma, training=False)
    run.forget_after(model.num_timesteps)
    run.config = config
    console = Console()
    who = f"{config['agent']} with {config['flow']}" if config.get("flow") else config["agent"]
    say(console, f"{who} on {environment.id}, {config['steps']:,} steps, seed {config['seed']}, on {model.device}")
    say(console, f"writing {run.path}")
    first_step, total, n_updates = model.num_timesteps, last_step(model, config["steps"]), model._n_updates
    for warning in missing_lessons(config, model, total):
        say(console, f"warning: {warning}")

    evaluation = Evaluation(
        run,
        evaluation_env,
        every=config["eval_every"],
        episodes=config["eval_episodes"],
        seed=config["seed"],
        clock=clock,
        console=console,
    )
    log_every = min(MAX_LOG_EVERY, max(config["steps"] // 10, 1))
    warmup = config.get("critic_warmup", 0)
    progress = ProgressDisplay(total, clock, console, bar=bar and console.is_terminal, critic_warmup=warmup)
    callbacks: list[BaseCallback] = [
        CriticWarmup(warmup),  # first: what is saved or evaluated is the actor that it holds
        UpdateForm(run, console, log_every),
        DensityFigure(config["eval_every"]),
        evaluation,
        FlowLogger(log_every),
        TaskReturns(),
        DumpLogs(log_every),
        progress,
    ]
    checkpoints = Checkpoints(run, config["checkpoint_every"], clock, callbacks, console)

    def save() -> None:
        when_there_is_space(lambda: run.save_model(model, "last"), "the last model", console)
        checkpoints.save_at_last()  # after the model: a run with a checkpoint at its end is complete

    def save_and_stop() -> None:
        save()
        evaluation.next_step = math.inf  # nothing comes of the step that is taken yet, an evaluation neither

    interruption = Interruption(save_and_stop)
    callbacks += [checkpoints, interruption]
    logger = run.logger(model.num_timesteps)
    logger.output_formats += writers
    model.set_logger(logger)
    try:
        with progress, interruption:
            if continues is not None:
                restore_continuation(model, callbacks, continues)
            model.learn(
                config["steps"] - model.num_timesteps,
                callback=callbacks,
                log_interval=rollouts_between_logs(model, log_every),  # type: ignore[arg-type]
                reset_num_timesteps=False,
            )
            if not interruption.ended:  # a Ctrl-C that comes from here on waits for the end
                try:
                    evaluation.evaluate_at_end()
                except Exception:
                    if has_finite_weights(model):
                        save()
                    raise
                save()
        if interruption.ended:
            say(console, f"interrupted and saved at step {interruption.step:,}; to go on:")
            say(console, f"    {resume_command(run)}")
            return INTERRUPTED
    except Exception as error:
        complete_steps = max(checkpoints.complete_steps, first_step)  # the first reset comes before any callback
        explanation = explain(error, run, model, clock, complete_steps)
        if explanation is None:
            raise
        raise explanation from error
    finally:
        logger.close()
        evaluation_env.close()
        model.env.close()  # type: ignore[union-attr]
    if model._n_updates == n_updates and model.num_timesteps > first_step:
        say(console, "warning: nothing was learned: there was no update of the policy")
    say(console, f"done: {model.num_timesteps:,} steps in {run.path}")
    say(console, f"    curves      tensorboard --logdir {run.path}")
    say(console, f"    evaluation  python experiments/evaluate.py {run.path}")
    return 0


def rollouts_between_logs(model: BaseAlgorithm, log_every: int) -> int | None:
    """
    How often on-policy algorithms write their logs, if their rollouts are short.

    :param model: the model
    :param log_every: steps between two rows
    :return: the number of rollouts, at least one; None for off-policy algorithms, whose logs `DumpLogs` writes
    """
    if not isinstance(model, OnPolicyAlgorithm):
        return None
    return max(log_every // (model.n_steps * model.n_envs), 1)


def last_step(model: BaseAlgorithm, steps: int) -> int:
    """
    The step at which training ends: on-policy algorithms finish the rollout that they have begun.

    :param model: the model
    :param steps: the steps that were asked for
    :return: the steps that are taken
    """
    if not isinstance(model, OnPolicyAlgorithm):
        return steps
    rollout = model.n_steps * model.n_envs
    return model.num_timesteps + math.ceil((steps - model.num_timesteps) / rollout) * rollout


def explain(
    error: Exception, run: RunDirectory, model: BaseAlgorithm, clock: TrainingClock, complete_steps: int
) -> TrainingError | None:
    """
    Say what to do about an error that ended training; save what was learned where it is sound.

    :param error: what was raised
    :param run: the run
    :param model: the model
    :param clock: the run's
    :param complete_steps: those of the rollouts that were learned from
    :return: the error to raise; None for one that no user can mend
    """
    step, sound = f"step {model.num_timesteps:,}", has_finite_weights(model)
    if sound and isinstance(error, NonFiniteObservation):
        model.num_timesteps = complete_steps
        came, step = step, f"step {complete_steps:,}"
        run.save_checkpoint(model, clock)
        return TrainingError(
            f"{run.config['environment']['id']}: {error}, at {came}. Mend the environment (it must give finite "
            f"numbers: bound its state, check divisions), then go on from {step}, where everything is saved: "
            f"{resume_command(run)}"
        )
    checkpoints = run.checkpoints()
    if isinstance(error, WorkerLost):
        cure = f"go on from {checkpoints[-1].name}: {resume_command(run)}" if checkpoints else "start the run again"
        return Resumable(f"{run.config['environment']['id']}: {error}, at {step}; {cure}")
    if not sound or isinstance(error, (NonFiniteAction, flowrl.Diverged)):
        cure = f"the last sound checkpoint is {checkpoints[-1]}" if checkpoints else "no checkpoint was saved yet"
        cause = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(":.")
        return TrainingError(
            f"training has diverged: weights, losses or actions are not finite at {step} ({cause}). "
            f"Start again with a smaller --set learning_rate=..., or --set normalize=True; {cure}"
        )
    if "before the end of the first episode" in str(error):  # SB3's HerReplayBuffer
        return TrainingError(
            "hindsight replay has no whole episode to learn from yet: add --set learning_starts=..., longer than an "
            "episode of each environment"
        )
    return error if isinstance(error, TrainingError) else None


def resume_command(run: RunDirectory) -> str:
    """
    The command that goes on with a run.

    :param run: the run
    :return: what to type
    """
    return f"python {_relative(ROOT / 'experiments' / 'run.py')} --resume {shlex.quote(str(run.path))}"


def check_device(name: str | None) -> str:
    """
    Refuse a device that is not there, where Stable-Baselines3 would quietly take another.

    :param name: ``auto``, ``cpu`` or ``cuda``
    :return: the name
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device here; use --device cpu (or auto)")
    return name or "auto"


def check_flow(name: Any) -> Any:
    """
    Refuse an unknown flow.

    :param name: the recipe's name
    :return: the name
    """
    flows = flowrl.available_flows()
    if name not in flows:
        raise UsageError(f"unknown flow {name!r}: {did_you_mean(str(name), flows)}")
    return name


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
