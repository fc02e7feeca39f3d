"""Fine-tuning: an agent of SAC's form that starts with the actor of another run, as a rule a cloned one; or an agent
whose policy is its critic too, which starts with the whole of it, in another task if need be."""

import inspect
import pickle
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import load_from_zip_file
from torch import Tensor, nn

from agents import AGENTS, Agent
from experiments.training.checkpoints import NORMALIZATION
from experiments.training.errors import UsageError
from experiments.training.run_directory import RunDirectory, first_line
from experiments.training.trust import warn_of_foreign_pickles
from flowrl.algorithms import NFQ
from flowrl.flows.flow import LOG_STD_MAX
from flowrl.flows.recipes import find_flow

# Steps for the new critics, at least. A clone of Pendulum's expert (return -146) fell to -1,650 when its actor moved
# from the start or after 200 steps, to -1,200 after 1,000, and to -630 after 3,000, from where it was back in 1,500.
MIN_CRITIC_WARMUP = 3_000
# Of a policy that brings its critic: as many as make minibatches differ. When MultiGoal's goals had moved, NFQ reached
# all of them after 6,000 to 6,500 steps with 1,000, and after 3,500, 6,000 and 2,500 with 200 (transfer.csv).
MAX_STEPS_BEFORE_LEARNING = 200
SOURCES = {
    "sac": ("sac", "flow-sac", "bc"),
    "flow-sac": ("sac", "flow-sac", "bc"),
    "nfq": ("nfq",),
}  # whose runs the agents of a table start from


def starts_from(agent: Agent, source: Agent) -> bool:
    """Whether an agent can start with the actor of another's run."""
    return source.table in SOURCES.get(agent.table, ()) and source.flow == agent.flow


def open_source(path: Path, agent: Agent, environment: str) -> RunDirectory:
    """
    The run whose actor another starts with.

    :param path: its directory
    :param agent: the agent that shall start with it
    :param environment: the id of the environment that it shall act in
    :return: the run
    """
    run = RunDirectory.open(path)
    config, source = run.config, run.agent
    if agent.table not in SOURCES:
        able = [other.name for other in AGENTS.values() if other.table in SOURCES]
        raise UsageError(f"--from: {agent.name} starts from no other run; {', '.join(able)} do")
    if not starts_from(agent, source):
        able = [other.name for other in AGENTS.values() if starts_from(other, source)]
        cure = f"use --agent {' or '.join(able)}" if able else "no agent does"
        raise UsageError(f"--from {path}: {agent.name} cannot start with the actor of {source.name}; {cure}")
    if config["environment"]["id"] != environment and not agent.is_its_own_critic:
        raise UsageError(f"--from {path}: its environment is {config['environment']['id']}, not {environment}")
    return run


def settings_of_source(settings: dict[str, Any], source: RunDirectory) -> dict[str, Any]:
    """
    Hyperparameters with the policy of another run, and, where that is its own critic, its temperature.

    :param settings: the agent's own
    :param source: the other run
    :return: the same, with the other's networks, flow and normalisation of observations, and steps enough for new
        critics, or no more than a minibatch needs where there are none
    """
    config, steps = source.config, settings["learning_starts"]
    new_critics = not source.agent.is_its_own_critic
    if not new_critics:  # Q = V + alpha log pi is another at another alpha
        settings = settings | dict(ent_coef=temperature_of(source))
    return settings | dict(
        policy_kwargs=policy_kwargs_of(source),
        normalize=config["normalize"],
        learning_starts=max(steps, MIN_CRITIC_WARMUP) if new_critics else min(steps, MAX_STEPS_BEFORE_LEARNING),
    )


def temperature_of(source: RunDirectory) -> float | str:
    """That of the model which `take_policy` takes; where it is learned, how."""
    ent_coef = source.config["hyperparameters"]["ent_coef"]
    if str(ent_coef).startswith("auto"):
        return ent_coef
    return float(saved_model(source)[2]["ent_coef_tensor"])


def saved_model(source: RunDirectory, device: Any = "cpu") -> tuple[str, dict[str, Any], dict[str, Any]]:
    """
    The model that another run starts from: its best one, or its last where none was evaluated.

    :param source: the run
    :param device: of the tensors
    :return: ``"best"`` or ``"last"``, the weights of its policy, and its further tensors
    """
    which = next((which for which in ("best", "last") if (source.path / f"{which}_model.zip").exists()), None)
    if which is None:
        raise UsageError(f"--from {source.path}: it has no model yet")
    path = source.path / f"{which}_model.zip"
    warn_of_foreign_pickles(path)
    try:
        _, parameters, variables = load_from_zip_file(path, device=device)
        return which, parameters["policy"], variables or {}  # type: ignore[return-value]
    except Exception as error:  # a broken file can fail in any way
        raise UsageError(f"--from {source.path}: {path.name} does not load ({first_line(error)})") from error


def policy_kwargs_of(source: RunDirectory) -> dict[str, Any]:
    """Those that a run's policy was made with."""
    policy_kwargs = dict(source.config["hyperparameters"].get("policy_kwargs") or {})
    if "activation_fn" in policy_kwargs:  # earlier versions wrote <class 'torch.nn.modules.activation.Tanh'>
        written = policy_kwargs["activation_fn"]
        activation = getattr(nn, str(written).rstrip("'>").rpartition(".")[2], None)
        if activation is None:
            raise UsageError(f"--from {source.path}: its config.json has no activation_fn of torch.nn, but {written}")
        policy_kwargs["activation_fn"] = activation
    return policy_kwargs


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """In what the same weights are another policy, though all shapes agree."""
    written, wanted = (_in_full(kwargs) for kwargs in (theirs, ours))
    keys = [key for key in {**written, **wanted} if written.get(key) != wanted.get(key)]
    return [f"{key} is {written.get(key)}, not {wanted.get(key)}" for key in keys]


def _in_full(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The flow, its options and the activation, with the defaults of those that are not given."""
    flow = policy_kwargs.get("flow")
    options = dict(flow=flow, activation_fn=policy_kwargs.get("activation_fn", nn.ReLU).__name__)
    if flow is None:  # a Gaussian
        return options
    recipe = inspect.signature(find_flow(flow)).parameters.values()
    defaults = {one.name: one.default for one in recipe if one.default is not one.empty}
    options |= (
        dict(context_gain=1.0, conditioner_gain=1.0, log_std_max=LOG_STD_MAX)
        | defaults
        | (policy_kwargs.get("flow_kwargs") or {})
    )
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def take_policy(model: BaseAlgorithm, source: RunDirectory) -> None:
    """
    Give a new model the actor of another run's best model, and the statistics by which its observations are normalised;
    where the policy is its own critic, the whole of it, and the temperature, if that is learned.

    :param model: a model of SAC's form
    :param source: the other run
    """
    which, weights, variables = saved_model(source, model.device)
    if differences := differing(model.policy_kwargs, policy_kwargs_of(source)):
        raise UsageError(
            f"--from {source.path}: its {', its '.join(differences)}; leave out --flow and --set policy_kwargs..., "
            "which are taken from there"
        )
    try:
        if isinstance(model, NFQ):
            model.policy.load_state_dict(weights)
            model.take_temperature(variables)
            model.random_start = False
        else:
            actor = {name.removeprefix("actor."): value for name, value in weights.items() if name.startswith("actor.")}
            model.actor.load_state_dict(actor)  # type: ignore[attr-defined]
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(
            f"--from {source.path}: the policies differ ({reason}); leave out --flow and --set policy_kwargs..., which "
            "are taken from there, and act in a task with the same observations and actions"
        ) from error
    normalization = model.get_vec_normalize_env()
    if source.config["normalize"] != (normalization is not None):
        raise UsageError(
            f"--from {source.path}: its normalize is {source.config['normalize']}, not {normalization is not None}; "
            "leave out --set normalize=..., which is taken from there"
        )
    if normalization is not None:
        try:
            with open(source.path / f"{which}_{NORMALIZATION}", "rb") as file:
                statistics = pickle.load(file)
        except Exception as error:
            reason = first_line(error)
            raise UsageError(f"--from {source.path}: {which}_{NORMALIZATION} does not load ({reason})") from error
        normalization.obs_rms = statistics.obs_rms
        if isinstance(model, NFQ):  # its values are in the units of its rewards
            normalization.ret_rms = statistics.ret_rms


class CriticWarmup(BaseCallback):
    """
    Hold the actor and the temperature still until the critics, which are new, have learned what the actor is worth.

    They are put back to where they were after every update, rather than kept from moving: a hook on their optimisers
    would keep the whole update from running in C.

    :param until: the step from which all learn
    """

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until
        self.held: list[tuple[Tensor, Tensor]] = []

    def _on_training_start(self) -> None:
        if self.num_timesteps < self.until:
            optimizers = [self.model.actor.optimizer, self.model.ent_coef_optimizer]  # type: ignore[attr-defined]
            self.optimizers = [optimizer for optimizer in optimizers if optimizer is not None]
            weights = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
            self.held = [(weight, weight.detach().clone()) for weight in weights]

    def _on_rollout_start(self) -> None:
        self._put_back()
        if self.model.num_timesteps >= self.until:
            self.held.clear()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._put_back()

    @torch.no_grad()
    def _put_back(self) -> None:
        if self.held:
            for weight, value in self.held:
                weight.copy_(value)
            for optimizer in self.optimizers:
                for state in optimizer.state.values():  # Adam's moments, and the count that it corrects them for
                    for value in state.values():
                        value.zero_()
