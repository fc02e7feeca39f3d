"""What a flow costs NFQ, which asks it for densities of replayed actions in every update and for samples to act by."""

from flowrl.flows.flow import Flow
from flowrl.layers import AutoregressiveLayer, ContinuousLayer, PlanarLayer
from flowrl.layers.bijectors import SigmoidalBijector


def why_slow(flow: Flow) -> str:
    """
    :param flow: of a policy
    :return: what makes it slow here; "" if nothing does
    """
    for layer in flow.layers:
        if isinstance(layer, AutoregressiveLayer):
            what = "root findings" if isinstance(layer.conditioner.bijector, SigmoidalBijector) else "passes"
            way = "a density" if layer.fast_sampling else "a sample"
            return f"{way} takes {flow.features} {what}, one for each action dimension"
        if isinstance(layer, ContinuousLayer):
            return "each way is an integration in many steps, and its density is exact only up to their error"
        if isinstance(layer, PlanarLayer):
            return "a density takes a root finding a layer"
    return ""
