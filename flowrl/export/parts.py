"""What a policy does, as small modules from tensors to tensors: they trace, and so they export.

Each takes the observation, batch first, as the environment gives it (one tensor, or the parts of a dictionary in the
order of its space), and speaks of actions as the environment gets them.
"""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from flowrl.export.input_normalization import InputNormalization
from flowrl.flows.distribution import candidate_noise, highest
from flowrl.policies.action_distribution import FlowDistribution
from flowrl.policies.action_path import PathFlowDistribution


class PolicyPart(nn.Module):
    """
    :param policy: a flow policy
    :param normalization: of what it observes, if it was trained behind one
    """

    low: Tensor
    high: Tensor
    outputs: tuple[str, ...] = ("action",)

    def __init__(self, policy: Any, normalization: InputNormalization | None):
        super().__init__()
        self.policy: Any = policy
        self.normalization = normalization
        for side in ("low", "high"):
            self.register_buffer(side, torch.as_tensor(getattr(policy.action_space, side), dtype=torch.float32))

    @property
    def noise_size(self) -> int:
        """How many independent N(0, 1) a sample is made of."""
        head = self.policy.action_dist if hasattr(self.policy, "action_dist") else self.policy.actor.action_dist
        return head.path_dim if isinstance(head, PathFlowDistribution) else head.action_dim

    def observe(self, parts: tuple[Tensor, ...]) -> Any:
        """The observation as the policy's networks take it."""
        space = self.policy.observation_space
        obs: Any = dict(zip(space.spaces, parts, strict=True)) if isinstance(space, spaces.Dict) else parts[0]
        return obs if self.normalization is None else self.normalization.tensors(obs)

    def executed(self, distribution: FlowDistribution, emitted: Tensor) -> Tensor:
        """What the environment gets: squashed and rescaled to its box, or clipped to it."""
        action = distribution.box_actions(emitted).reshape(-1, *self.policy.action_space.shape)
        if distribution.squash:
            action = self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        return torch.minimum(torch.maximum(action, self.low), self.high)


class DeterministicAction(PolicyPart):
    """Observation -> action, as `predict(obs, deterministic=True)`."""

    noise: Tensor

    def __init__(self, policy: Any, normalization: InputNormalization | None):
        super().__init__(policy, normalization)
        self.choice = policy.flow_spec["deterministic_action"]
        if self.choice != "mean":
            self.register_buffer("noise", candidate_noise(policy.flow_spec["n_candidates"], self.noise_size))

    def forward(self, *observation: Tensor) -> Tensor:
        obs = self.observe(observation)
        distribution = self.policy.get_distribution(obs)
        if self.choice == "mean":
            return self.executed(distribution, distribution.distribution.center())
        if self.choice == "average":
            return self.executed(distribution, distribution.distribution.average_of(self.noise))
        actions, log_prob = distribution.distribution.candidates_of(self.noise)
        score = self.policy.lowest_q(obs, actions) if self.choice == "best" else log_prob
        return self.executed(distribution, highest(actions, score))


class Sample(PolicyPart):
    """Observation, noise -> action and its log-density; with noise layers, the log-density of its path."""

    def __init__(self, policy: Any, normalization: InputNormalization | None):
        super().__init__(policy, normalization)
        self.outputs = ("action", "log_prob" if policy.has_log_prob else "path_log_prob")

    def forward(self, *observation_and_noise: Tensor) -> tuple[Tensor, Tensor]:
        *observation, noise = observation_and_noise
        distribution = self.policy.get_distribution(self.observe(tuple(observation)))
        actions: Any = distribution.distribution
        score = actions.from_noise_and_log_prob if self.policy.has_log_prob else actions.from_noise_and_path_log_prob
        emitted, log_prob = score(noise)
        if distribution.squash:  # densities are those on [-1, 1] until here
            log_prob = log_prob - (0.5 * (self.high - self.low)).log().sum()
        return self.executed(distribution, emitted), log_prob


class LogProb(PolicyPart):
    """Observation, action of the environment -> its log-density, as the policy's `log_prob`."""

    outputs = ("log_prob",)

    def forward(self, *observation_and_action: Tensor) -> Tensor:
        *observation, action = observation_and_action
        return self.policy.log_prob(self.observe(tuple(observation)), action)


PARTS: dict[str, type[PolicyPart]] = dict(action=DeterministicAction, sample=Sample, log_prob=LogProb)
"""By what a user asks for."""
