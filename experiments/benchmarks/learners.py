"""Whole agents of Stable-Baselines3, of flowrl and of SBX on the same environment with the same hyperparameters."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

import flowrl  # noqa: F401  registers the flow policies with Stable-Baselines3
from agents import find_agent, hyperparameters, model_arguments
from experiments.benchmarks.mode import Options
from experiments.benchmarks.peers import NotAvailable, load
from experiments.benchmarks.turns import Work
from experiments.training.environments import find_environment, make_vector_environment
from experiments.training.precision import matmul_precision

SHORT = {"stable_baselines3": "SB3", "flowrl.algorithms": "flowrl", "sbx": "SBX"}


@dataclass(frozen=True)
class Learner:
    """
    An algorithm with a policy.

    :param library: the module that has the algorithm
    :param algorithm: ``SAC``, ``PPO``, ``NFQ``, ``NFAC`` or ``SNF``
    :param flow: a recipe; None for the library's Gaussian
    :param precision: see :func:`torch.set_float32_matmul_precision`; None: torch's own
    """

    library: str
    algorithm: str
    flow: str | None = None
    precision: str | None = None

    @property
    def name(self) -> str:
        """What the tables call it."""
        precision = f", {self.precision}" if self.precision else ""
        return f"{SHORT[self.library]} {self.algorithm}, {self.flow or 'Gaussian'}{precision}"

    def build(self, options: Options, n_envs: int = 1, **changes: Any) -> BaseAlgorithm:
        """
        Make the model.

        :param options: the command line
        :param n_envs: environments side by side
        :param changes: hyperparameters in place of the agents' own
        :return: the model, ready to ``learn``
        """
        module = load(self.library)
        if self.library == "sbx" and options.device == "cuda" and load("jax").default_backend() != "gpu":
            raise NotAvailable("JAX finds no GPU: pip install 'jax[cuda12]'")
        environment = find_environment(options.env)
        settings = hyperparameters(find_agent(self.algorithm.lower()).table, environment.name)
        arguments = model_arguments(settings) | changes
        if self.flow:
            arguments["policy_kwargs"] = arguments["policy_kwargs"] | dict(flow=self.flow)
        env = make_vector_environment(environment, n_envs, settings["normalize"], settings["gamma"])
        policy = "FlowPolicy" if self.flow else "MlpPolicy"
        return getattr(module, self.algorithm)(policy, env, **arguments, seed=0, device=options.device)

    def learning(self, options: Options, steps: int, n_envs: int = 1, **changes: Any) -> Work:
        """
        Training, all included: environment, replay and updates.

        :param options: the command line
        :param steps: environment steps in a turn
        :param n_envs: environments side by side
        :param changes: hyperparameters in place of the agents' own
        :return: the work, in environment steps
        """
        model = self.build(options, n_envs, **changes)

        def turn() -> float:
            before = model.num_timesteps
            with matmul_precision(self.precision):
                model.learn(steps, reset_num_timesteps=False)
            if is_jax(model):
                load("jax").block_until_ready(_jax_states(model))
            return model.num_timesteps - before

        return Work(turn, parameters(model))


def gaussian(algorithm: str) -> Learner:
    """
    What everything is compared with: Stable-Baselines3's own.

    :param algorithm: ``SAC`` or ``PPO``
    :return: the learner
    """
    return Learner("stable_baselines3", algorithm)


def flow_learners(algorithm: str, flows: Iterable[str]) -> list[Learner]:
    """
    Flow policies in Stable-Baselines3's own algorithm and in flowrl's.

    :param algorithm: ``SAC`` or ``PPO``
    :param flows: recipes
    :return: the learners
    """
    return [
        Learner(library, algorithm, flow) for library in ("stable_baselines3", "flowrl.algorithms") for flow in flows
    ]


def parameters(model: BaseAlgorithm) -> int:
    """
    Count what a model's policy holds, target networks included.

    :param model: of either library
    :return: how many parameters
    """
    if is_jax(model):
        return sum(leaf.size for leaf in load("jax").tree_util.tree_leaves(_jax_states(model)))
    return sum(parameter.numel() for parameter in model.policy.parameters())


def is_jax(model: BaseAlgorithm) -> bool:
    """
    Whether a model is one of SBX's.

    :param model: of either library
    :return: True for SBX
    """
    return hasattr(model.policy, "actor_state")


def _jax_states(model: BaseAlgorithm) -> list[Any]:
    policy: Any = model.policy
    states = [getattr(policy, name, None) for name in ("actor_state", "qf_state", "vf_state")]
    return [getattr(state, name) for state in states for name in ("params", "target_params") if hasattr(state, name)]
