"""What NFQ asks of a flow, densities of replayed actions in every update and samples to act by, and what they cost."""

from collections import Counter

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from flowrl.flows.flow import Flow
from flowrl.layers import AutoregressiveLayer, ContinuousLayer, Elementwise, PlanarLayer
from flowrl.layers.bijectors import SigmoidalBijector

MAX_CALLS = 3
"""Of one network, as many as zuko makes for a sample of a coupling (``passes=2``): more are slow."""


def why_slow(flow: Flow) -> str:
    """
    :param flow: of a policy
    :return: what makes it slow here; "" if nothing does. In another library's flow, calls of networks are all that is
        seen, not a root finding without any
    :raises ValueError: where it gives no densities of given actions, or no samples
    """
    calls = {"a density": max_network_calls(flow, "log_prob"), "a sample": max_network_calls(flow, "rsample")}
    for layer in flow.layers:
        if isinstance(layer, AutoregressiveLayer):
            what = "root findings" if isinstance(layer.conditioner.bijector, SigmoidalBijector) else "passes"
            way = "a density" if layer.fast_sampling else "a sample"
            return f"{way} takes {flow.features} {what}, one for each action dimension"
        if isinstance(layer, ContinuousLayer):
            return "each way is an integration in many steps, and its density is exact only up to their error"
        if isinstance(layer, PlanarLayer):
            return "a density takes a root finding a layer"
        if isinstance(layer, Elementwise) and isinstance(layer.bijector, SigmoidalBijector):
            return f"{'a sample' if layer.inverse else 'a density'} takes a root finding a layer"
    slow = (f"{way} calls one of its networks {n} times" for way, n in calls.items() if n > MAX_CALLS)
    return next(slow, "")


@torch.no_grad()
def max_network_calls(flow: Flow, method: str) -> int:
    """
    :param flow: of a policy; it is asked in evaluation mode, and torch's random numbers are left alone
    :param method: ``"log_prob"`` of an action, or ``"rsample"``, in one state
    :return: how often that calls the module with parameters that it calls most
    :raises ValueError: where that fails
    """
    like = next(flow.parameters(), torch.zeros(()))
    calls: Counter[nn.Module] = Counter()
    training = [module for module in flow.modules() if module.training]
    flow.eval()
    try:
        with (
            torch.random.fork_rng([like.device] if like.is_cuda else []),
            register_module_forward_pre_hook(lambda module, _: calls.update([module])),
        ):
            pi = flow(like.new_zeros(1, flow.context))
            if method == "log_prob":
                pi.log_prob(like.new_zeros(1, flow.features))
            else:
                pi.rsample()
    except Exception as error:  # whatever another library says where it has none
        raise ValueError(
            'policy_kwargs["flow"] must give log-probs of given actions and samples, by which NFQ learns and acts, and '
            f'its {method} fails ({error!r}): "nsf", "realnvp" and "triangular" give both.'
        ) from error
    finally:
        for module in training:
            module.training = True
    return max((calls[module] for module in flow.modules() if [*module.parameters(recurse=False)]), default=0)
