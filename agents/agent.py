"""An agent's name and what it stands for: which algorithm, and whether its policy is a flow."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv

from flowrl import algorithms
from flowrl.algorithms.offline import OfflineMixin
from flowrl.algorithms.schedules import linear_schedule
from flowrl.algorithms.snf import on_base


@dataclass(frozen=True)
class Agent:
    """
    A named agent.

    :param name: what the user types
    :param algorithm: Stable-Baselines3's algorithm, or flowrl's faster form of it
    :param table: which table of hyperparameters it reads: one of `agents.hyperparameters.TABLES`
    :param flow: whether its policy is a flow policy; otherwise it is the algorithm's Gaussian
    :param description: one line for ``--list``
    :param own: whether the method is this library's alone, so that Stable-Baselines3 has no form of it
    """

    name: str
    algorithm: type[BaseAlgorithm]
    table: str
    flow: bool
    description: str
    own: bool = False

    @property
    def imitates(self) -> bool:
        """Whether it learns from demonstrations rather than from rewards."""
        return self.table == "bc"

    @property
    def is_its_own_critic(self) -> bool:
        """Whether its policy is a critic too, so that it starts from another run's with both."""
        return self.table == "nfq"

    @property
    def learns_offline(self) -> bool:
        """Whether it can learn from a data set of transitions in place of the environment."""
        return issubclass(self.algorithm, OfflineMixin)

    @property
    def default_flow(self) -> str | None:
        """Its policy's flow where none is named; None of an agent with a Gaussian."""
        policy: Any = self.algorithm.policy_aliases["FlowPolicy"]
        return policy.default_flow if self.flow else None

    def in_sb3(self) -> "Agent":
        """
        The agent in Stable-Baselines3's own algorithm, with the hyperparameters of the Gaussian baseline.

        :return: the agent
        :raises ValueError: where Stable-Baselines3 has no such algorithm
        """
        if self.own:
            raise ValueError(f"Stable-Baselines3 has no algorithm that {self.name} could take instead")
        baseline = AGENTS[self.name.removeprefix("flow-")]
        return replace(self, algorithm=baseline.algorithm, table=baseline.table)

    def based_on(self, base: str) -> "Agent":
        """
        An agent of SNF on another algorithm, whose hyperparameters it then reads.

        :param base: ``"ppo"``, ``"a2c"`` or ``"trpo"``
        :return: the agent
        :raises ValueError: for another, where sb3-contrib is missing for TRPO, or for an agent that is not SNF
        """
        if not issubclass(self.algorithm, algorithms.SNF):
            raise ValueError(f"base={base!r}: {self.name} is on no other algorithm; the agent snf is.")
        return replace(self, algorithm=on_base(base), table=base)

    def policy_name(self, observation_space: spaces.Space) -> str:
        """
        The name of this agent's policy for a kind of observation.

        :param observation_space: vectors, images, or a dictionary of them
        :return: an alias that the algorithm knows
        """
        if isinstance(observation_space, spaces.Dict):
            kind = "MultiInputPolicy"
        elif is_image_space(observation_space):
            kind = "CnnPolicy"
        else:
            kind = "Policy" if self.flow else "MlpPolicy"
        return f"Flow{kind}" if self.flow else kind

    def policy_class(self, observation_space: spaces.Space) -> type[BasePolicy]:
        """
        The class behind :meth:`policy_name`.

        :param observation_space: vectors, images, or a dictionary of them
        :return: the policy class
        """
        return self.algorithm.policy_aliases[self.policy_name(observation_space)]


_CLONING = algorithms.BehaviourCloning
_NAMED = (
    Agent("flow-sac", algorithms.SAC, "flow-sac", True, "SAC with a normalizing-flow policy"),
    Agent("flow-ppo", algorithms.PPO, "ppo", True, "PPO with a normalizing-flow policy"),
    Agent("nfac", algorithms.NFAC, "nfac", True, "flow-sac whose critics give the return's distribution", own=True),
    Agent("nfq", algorithms.NFQ, "nfq", True, "a normalizing flow as the soft Q-function", own=True),
    Agent(
        "snf",
        on_base("ppo"),
        "ppo",
        True,
        "PPO, or --set base=a2c or trpo, with noise between a flow's layers",
        own=True,
    ),
    Agent("sac", stable_baselines3.SAC, "sac", False, "SAC with Stable-Baselines3's squashed Gaussian"),
    Agent("ppo", stable_baselines3.PPO, "ppo", False, "PPO with Stable-Baselines3's Gaussian"),
    Agent("flow-bc", _CLONING, "bc", True, "cloning of --demos with flow-sac's policy", own=True),
    Agent("bc", _CLONING, "bc", False, "cloning of --demos with sac's policy", own=True),
)

AGENTS: dict[str, Agent] = {agent.name: agent for agent in _NAMED}


def find_agent(name: str) -> Agent:
    """
    Look an agent up by name.

    :param name: one of ``AGENTS``
    :return: the agent
    """
    if name not in AGENTS:
        near = get_close_matches(name, AGENTS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown agent {name!r}: {hint}The agents are {', '.join(AGENTS)}")
    return AGENTS[name]


def make_agent(agent: Agent | str, env: VecEnv, settings: dict[str, Any], **kwargs: Any) -> BaseAlgorithm:
    """
    Build the Stable-Baselines3 model of an agent.

    :param agent: the agent or its name
    :param env: the vectorised training environment
    :param settings: the algorithm's arguments, ``policy_kwargs`` among them (a flow agent's may name a ``flow``); the
        ``learning_rate`` may be ``"linear_FIRST_LAST"``
    :param kwargs: what is not a hyperparameter: ``seed``, ``device``, ``verbose``
    :return: the model, ready to ``learn``
    :raises ValueError: for an unknown agent, or a ``base`` of one that is not SNF
    """
    agent = find_agent(agent) if isinstance(agent, str) else agent
    agent = agent.based_on(settings["base"]) if "base" in settings else agent
    if isinstance(settings.get("learning_rate"), str):
        settings = settings | dict(learning_rate=linear_schedule(settings["learning_rate"]))
    return agent.algorithm(agent.policy_name(env.observation_space), env, **settings, **kwargs)
