"""The norms of gradients, the actor's and the critic's apart."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# In SB3's actor-critic policies (PPO, A2C), which have one optimiser, these parameters are the critic's.
CRITIC_PREFIXES = ("value_net", "mlp_extractor.value_net", "vf_features_extractor")


def actor_and_critic(policy: nn.Module) -> dict[str, list[Tensor]]:
    """
    The parameters of a policy of PPO's form.

    :param policy: the policy
    :return: those of the actor and those of the critic
    """
    groups: dict[str, list[Tensor]] = dict(actor=[], critic=[])
    for name, parameter in policy.named_parameters():
        groups["critic" if name.startswith(CRITIC_PREFIXES) else "actor"].append(parameter)
    return groups


def gradient_norm(parameters: Iterable[Tensor]) -> float:
    """
    :param parameters: whose gradients are taken together
    :return: their norm, 0 where there are none
    """
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return torch.stack(norms).norm().item() if norms else 0.0
