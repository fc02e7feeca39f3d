"""Critics of a return's distribution, in the place where SAC's policy of Stable-Baselines3 2.9 has its critics."""

from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from flowrl.critics.heads import Atoms, make_head
from flowrl.networks import Architecture, perceptron
from flowrl.options import whole
from flowrl.side_by_side import side_by_side


class ReturnCritics(BaseModel):
    """
    Networks each of which gives a distribution of the scaled return.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param net_arch: widths of each network's hidden layers
    :param features_extractor: of observations
    :param features_dim: what it gives
    :param activation_fn: between layers
    :param normalize_images: whether images are divided by 255
    :param n_critics: how many networks
    :param share_features_extractor: whether the extractor is the actor's too, whose optimiser then moves it
    :param critic: ``"flow"``, ``"categorical"``, ``"quantile"`` or ``"scalar"``: see `flowrl.critics.heads`
    :param critic_kwargs: options of that head
    :param architecture: of each network, see :class:`flowrl.networks.Architecture`
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_critics: int = 2,
        share_features_extractor: bool = False,
        critic: str = "flow",
        critic_kwargs: dict[str, Any] | None = None,
        architecture: dict[str, Any] | None = None,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.share_features_extractor = share_features_extractor
        self.head = make_head(critic, **(critic_kwargs or {}))
        self.architecture = Architecture(tuple(net_arch), **(architecture or {}))
        inputs = features_dim + get_action_dim(action_space)
        self.networks = nn.ModuleList(
            perceptron(inputs, self.head.size, self.architecture, activation_fn)
            for _ in range(whole("n_critics", n_critics, 1))
        )

    @property
    def has_batch_statistics(self) -> bool:
        """Whether a norm of the networks goes by the batch."""
        return self.architecture.norm == "batch"

    def forward(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """
        The mean scaled return, as SB3's critics give theirs.

        :param obs: preprocessed observations, batch first
        :param actions: in [-1, 1]^d, shape ``(batch, d)``
        :return: of each network, shape ``(batch, 1)``
        """
        return tuple(self.head.atoms(self.raw(obs, actions)).mean().unsqueeze(-1))

    def raw(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """
        :param obs: preprocessed observations, batch first
        :param actions: in [-1, 1]^d, shape ``(batch, d)``
        :return: what the head reads, shape ``(n_critics, batch, head.size)``
        """
        # As SB3's critics: an extractor that is the actor's too learns by the actor's loss alone
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            features: Any = self.extract_features(obs, self.features_extractor)  # type: ignore[arg-type]
        x = torch.cat((features, actions), -1)
        return torch.stack(side_by_side(*(partial(network, x) for network in self.networks)))


def pooled(atoms: Atoms, drop: int) -> Atoms:
    """
    The atoms of all networks together, without the highest (Kuznetsov et al. 2020, TQC, eq. 11).

    :param atoms: of equal weights, shape ``(n_critics, batch, n)``
    :param drop: how many, of each network
    :return: shape ``(batch, n_critics (n - drop))``
    """
    critics, _, n = atoms.values.shape
    values = atoms.values.transpose(0, 1).flatten(1).sort(-1).values
    kept = critics * (n - drop)
    return Atoms(values[:, :kept], values.new_full((kept,), 1 / kept))


def of_smaller_mean(atoms: Atoms) -> Atoms:
    """
    For each state and action the distribution of the network whose mean is the smaller, as a whole.

    :param atoms: shape ``(n_critics, batch, n)``
    :return: shape ``(batch, n)``
    """
    index = atoms.mean().argmin(0).view(1, -1, 1).expand(1, *atoms.values.shape[1:])
    weights = atoms.weights.expand_as(atoms.values).gather(0, index).squeeze(0)
    return Atoms(atoms.values.gather(0, index).squeeze(0), weights)
