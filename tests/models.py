"""The small matrix that the tests of the policies run over: algorithms, recipes, cheap models of them."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

import flowrl
from flowrl.flows.flow import Flow
from tests.environments import HIGH, LOW, Aim

FLOWS = flowrl.available_flows()
POLICY_FLOWS = ["triangular", "nsf"]  # tests of policies run over these two, tests of recipes over all

# Options of the flows whose densities are scored on whole grids, where a recipe's own sizes would take minutes. The
# continuous flow evaluates its field four times a step, and its solver's error falls as steps^-4: so many reach the
# tolerances of exact flows. (tests/transforms/test_continuous.py says what the default steps do.)
FLOW_KWARGS: dict[str, dict[str, Any]] = {"ffjord": dict(hidden=(8, 8), steps=16)}

# Flows that the C kernels know, small, at the dimensions that they are tested at; one dimension has no affine coupling.
KERNEL_FLOWS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "triangular": {},
    "affine": {},
    "realnvp": dict(hidden=(16, 16)),
    "nsf": dict(hidden=(16,)),
}
KERNEL_CASES = [(flow, d) for flow in KERNEL_FLOWS for d in (1, 2, 3, 17) if (flow, d) != ("realnvp", 1)]

# A few hundred cheap updates in a thousand steps.
_OFF_POLICY = dict(learning_starts=100, train_freq=16, gradient_steps=2, batch_size=32, buffer_size=2_000)
ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "SAC": (SAC, _OFF_POLICY),
    "TQC": (TQC, _OFF_POLICY),
    "CrossQ": (CrossQ, _OFF_POLICY),
    "PPO": (PPO, dict(n_steps=128, batch_size=64, n_epochs=2)),
    "A2C": (A2C, dict(n_steps=16)),
    "TRPO": (TRPO, dict(n_steps=128, batch_size=32, n_critic_updates=2, cg_max_steps=4)),
}
OFF_POLICY = ["SAC", "TQC", "CrossQ"]
ON_POLICY = ["PPO", "A2C", "TRPO"]

OBSERVATIONS = spaces.Box(-1.0, 1.0, (3,))
BOX = spaces.Box(np.float32(LOW), np.float32(HIGH))


class Scaled(FlattenExtractor):
    """Flattens as SB3's, times factors that are trained."""

    def __init__(self, observation_space: gym.Space):
        super().__init__(observation_space)
        self.scale = nn.Parameter(torch.ones(self.features_dim))

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations) * self.scale


class Precise(FlattenExtractor):
    """Flattens as SB3's, and lets a policy be of float64, which SB3's preprocessing does not."""

    def __init__(self, observation_space: gym.Space):
        super().__init__(observation_space)
        self.register_buffer("probe", torch.zeros(()))

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).to(self.probe.dtype)


try:
    from flowrl.kernels import STATELESS_EXTRACTORS, library

    STATELESS_EXTRACTORS.add(Precise)
    HAS_KERNELS = library.load(torch.float64) is not None
except ModuleNotFoundError:  # --without-kernels
    HAS_KERNELS = False


def build(
    algorithm: str,
    env: Any = None,
    policy: str = "FlowPolicy",
    policy_kwargs: dict | None = None,
    **kwargs: Any,
) -> Any:
    """A small model; ``kwargs`` go to the algorithm, ``policy_kwargs`` to the policy."""
    cls, settings = ALGORITHMS[algorithm]
    critics = dict(n_quantiles=5) if algorithm == "TQC" else {}
    net = dict(net_arch=[16]) | critics | (policy_kwargs or {})
    env = Aim() if env is None else env
    return cls(policy, env, policy_kwargs=net, **(settings | dict(seed=0, device="cpu") | kwargs))


def build_policy(
    algorithm: str,
    policy: str = "FlowPolicy",
    action_space: gym.Space = BOX,
    observation_space: gym.Space = OBSERVATIONS,
    seed: int = 0,
    **kwargs: Any,
) -> Any:
    """A small policy by itself, ``kwargs`` go to it."""
    torch.manual_seed(seed)
    policy_class = ALGORITHMS[algorithm][0].policy_aliases[policy]
    kwargs = dict(net_arch=[16], features_extractor_class=Precise) | kwargs
    if kwargs.get("flow") in FLOWS:
        kwargs.setdefault("flow_kwargs", FLOW_KWARGS.get(kwargs["flow"]))
    return policy_class(observation_space, action_space, lambda _: 1e-3, **kwargs)


def head(policy: BasePolicy) -> Flow:
    """The flow inside a policy."""
    return policy.actor.flow if hasattr(policy, "actor") else policy.action_net


def perturb(module: nn.Module, scale: float = 0.1, seed: int = 1) -> None:
    """Move every parameter by noise: as if it had been trained, so that no flow is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)


def widen_moderately(flow: Flow) -> None:
    """Give a flow a base of moderate width around a small mean: abs(u) stays below 6, and a grid resolves it."""
    d, context = flow.features, flow.context
    mean, log_std = 0.2 * torch.randn(d, context), 0.1 * torch.randn(d, context)
    flow.set_gaussian(mean, torch.zeros(d), log_std, torch.full((d,), -0.5))


def observations(n: int, seed: int = 2) -> Tensor:
    """States of `OBSERVATIONS`, shape ``(n, 3)``."""
    return 2 * torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 1


def states(env: gym.Env, n: int = 8) -> Any:
    """Observations of an environment's own, batched as `predict` takes them, images last."""
    env.observation_space.seed(0)
    samples = [env.observation_space.sample() for _ in range(n)]
    if isinstance(env.observation_space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def env_actions(space: spaces.Box, n: int = 8, seed: int = 3) -> Tensor:
    """Actions inside a box, shape ``(n, d)``."""
    uniform = np.random.default_rng(seed).uniform(0.05, 0.95, (n, *space.shape))
    return torch.as_tensor(space.low + uniform * (space.high - space.low), dtype=torch.float32)


def assert_same_policy(first: Any, second: Any, env: gym.Env, atol: float = 1e-6) -> None:
    """The same deterministic actions and the same log-probs, for models or policies."""
    obs = states(env)
    np.testing.assert_allclose(
        first.predict(obs, deterministic=True)[0], second.predict(obs, deterministic=True)[0], atol=atol
    )
    torch.testing.assert_close(log_prob(first, env), log_prob(second, env), atol=10 * atol, rtol=1e-5)


@torch.no_grad()
def log_prob(model: Any, env: gym.Env) -> Tensor:
    """Log-densities of some environment actions in some states."""
    policy = getattr(model, "policy", model)
    policy.set_training_mode(False)
    obs, _ = policy.obs_to_tensor(states(env))
    return policy.log_prob(obs, env_actions(env.action_space))
