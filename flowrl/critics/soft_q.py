r"""NFQ's soft Q-function: a normalised flow says how good an action is beside others, networks how good a state is.

.. math:: Q_i(s, a) = V_i(s) + \alpha \log \pi(a|s)

Since pi integrates to one over the box of actions,
:math:`\alpha \log \int \exp(Q_i(s, a) / \alpha) da = V_i(s)`: V_i is Q_i's soft value (Haarnoja et al. 2017,
"Reinforcement Learning with Deep Energy-Based Policies", eq. 5) exactly, whatever the flow's log-determinants depend
on, and pi = exp((Q_i - V_i) / alpha) is its best policy (eq. 6). Nothing is estimated by samples.
"""

from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from flowrl.side_by_side import side_by_side


def soft_q(values: Tensor, log_prob: Tensor, ent_coef: Tensor | float) -> Tensor:
    """
    :param values: V_i(s), shape ``(batch, n)``
    :param log_prob: log pi(a|s) on [-1, 1]^d, shape ``(batch,)``, nats
    :param ent_coef: alpha
    :return: Q_i(s, a), shape ``(batch, n)``
    """
    return values + ent_coef * log_prob.unsqueeze(-1)


class SoftValues(BaseModel):
    """
    The networks V_i, in the place where SAC's policy of Stable-Baselines3 2.9 has its critics, with their arguments.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param net_arch: widths of each network's hidden layers
    :param features_extractor: of observations
    :param features_dim: what it gives
    :param activation_fn: between layers
    :param normalize_images: whether images are divided by 255
    :param n_critics: how many networks
    :param share_features_extractor: whether the extractor is the actor's too, whose optimiser then moves it
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
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.share_features_extractor = share_features_extractor
        networks = [create_mlp(features_dim, 1, net_arch, activation_fn) for _ in range(n_critics)]
        self.networks = nn.ModuleList(nn.Sequential(*layers) for layers in networks)

    def forward(self, obs: PyTorchObs) -> Tensor:
        """
        :param obs: preprocessed observations, batch first
        :return: V_i(s), shape ``(batch, n)``
        """
        features: Any = self.extract_features(obs, self.features_extractor)  # type: ignore[arg-type]
        return torch.cat(side_by_side(*(partial(network, features) for network in self.networks)), -1)
