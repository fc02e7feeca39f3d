"""What a flow costs NFQ, which asks it for densities of replayed actions in every update and for samples to act by."""

from flowrl.flows.flow import Flow
from flowrl.layers import AutoregressiveLayer, ContinuousLayer, PlanarLayer
from flowrl.layers.bijectors import SigmoidalBijector


def why_slow(flow: Flow) -> str:
    """
    :param flow: of a policy
    :return: what makes it slow here; "" if nothing does
    """
    d = flow.features
    for layer in flow.layers:
        if isinstance(layer, AutoregressiveLayer):
            passes = (
                f"{d} root findings" if isinstance(layer.conditioner.bijector, SigmoidalBijector) else f"{d} passes"
            )
            return f"{'a density' if layer.fast_sampling else 'a sample'} takes {passes}, one for each action dimension"
        if isinstance(layer, ContinuousLayer):
            return "each way is an integration in many steps, and its density is exact only up to their error"
        if isinstance(layer, PlanarLayer):
            return "a density takes a root finding a layer"
    return ""
