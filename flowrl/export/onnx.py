"""Policies as ONNX models: what they do, for a program without torch; checked against torch before they are written."""

import copy
import importlib.util
import io
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from flowrl.export.description import policy_of
from flowrl.export.parts import PARTS, LogProb, PolicyPart, Sample
from flowrl.export.spaces import describe_space
from flowrl.layers import ContinuousLayer
from flowrl.policies.density import ActionDensity

OPSET = 18
# torch's own list lacks the one, and has log(sigmoid(x)) for the other, which is wrong in the tails.
OPERATIONS = {
    "aten::atanh": lambda g, x: g.op("Atanh", x),
    "aten::log_sigmoid": lambda g, x: g.op("Neg", g.op("Softplus", g.op("Neg", x))),
}

OWN_NAMES = {"noise", "action", "log_prob", "path_log_prob"}

HUGE = 1e10
"""A bound of observations that says that there is none."""

WIDTH_ERROR = 0.01
"""Of the box of actions in float32, relative to its width."""

TOLERANCE = 1e-5
"""Between torch and ONNX, of numbers up to 1 in size; relative to larger ones."""

ONNX_FLOWS = {
    "triangular": ("1 pass", "1 pass"),
    "gaussian": ("1 pass", "1 pass"),
    "affine": ("1 pass", "1 pass"),
    "realnvp": ("1 pass", "1 pass"),
    "nsf": ("1 pass", "1 pass"),
    "nsf-ar": ("d passes", "1 pass"),
    "maf": ("d passes", "1 pass"),
    "iaf": ("1 pass", "d passes"),
    "naf": ("d root finds", "1 pass"),
    "planar": ("1 pass", "1 root find"),
    "radial": ("1 pass", "1 pass"),
    "glow": ("1 pass", "1 pass"),
    "waveglow": ("1 pass", "1 pass"),
    "ffjord": ("1 solve", "1 solve"),
}
"""The recipes that export, by the tests: what a graph does for an action or a sample, and for a log-prob."""


def to_onnx(model: BaseAlgorithm | BasePolicy, path: str | os.PathLike, output: str = "action") -> Path:
    """
    Write what a flow policy does as an ONNX model. The first axis of all inputs and outputs is the batch, of any size.

    Observations go in as the policy's `observation_space` has them, one input for each key of a dictionary, else
    ``observation``; images have their channels first. Scaling, one-hot codes and the normalisation of observations
    (also that of the `VecNormalize` around a model's environment) are inside. Actions are the environment's: squashed
    and rescaled to its box, or clipped to it.

    - ``output="action"``: observation -> ``action``, the deterministic one, as ``predict(obs, deterministic=True)``
    - ``output="sample"``: observation, ``noise`` -> ``action``, ``log_prob``. The noise is yours to draw: independent
      standard normal numbers, float32, of the shape that the model's input has. The density is the policy's
      `log_prob`, in the environment's units. A policy with noise layers gives ``path_log_prob`` instead
    - ``output="log_prob"``: observation, ``action`` -> ``log_prob``

    The model is compared with torch, on observations of one and of three, before it is written. Its metadata says what
    goes in and comes out, in JSON under ``flowrl``.

    :param model: a model or its policy, with a flow of flowrl's layers
    :param path: the file, by custom named ``*.onnx``; replaced if it is there
    :param output: ``"action"``, ``"sample"`` or ``"log_prob"``
    :return: the path
    :raises ImportError: where onnx or onnxruntime is not installed
    :raises ValueError: for another output or policy, a box of actions that float32 does not resolve, a flow that no
        ONNX model can be, or if ONNX and torch differ by more than :data:`TOLERANCE`
    """
    _find_packages()
    policy, normalization = policy_of(model)
    _check(policy, output)
    policy = copy.deepcopy(policy).cpu()  # the caller's keeps its device, mode and gradients
    part = PARTS[output](policy, normalization).requires_grad_(False).eval()
    inputs = _inputs(part, 3)
    graph = _export(part, inputs)
    _compare(part, graph, (inputs, _inputs(part, 1)))
    _write(part, graph, output, Path(path))
    return Path(path)


def _find_packages() -> None:
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"to_onnx needs {package}: pip install {package}")


def _check(policy: Any, output: str) -> None:
    if output not in PARTS:
        raise ValueError(f"output must be one of {', '.join(map(repr, PARTS))}, got {output!r}.")
    if not isinstance(policy, ActionDensity):
        raise ValueError(
            f"to_onnx exports flow policies, got a {type(policy).__name__}: Stable-Baselines3's guide says how to "
            "export its own; flowrl.export.save_policy takes both."
        )
    if output == "log_prob" and not policy.has_log_prob:
        raise ValueError(
            "output='log_prob': the policy has noise layers, and the density of its actions is not known. 'sample' "
            "gives that of a path, and a policy with noise_layers=0 has one."
        )
    _check_box(policy)
    keys = policy.observation_space.spaces if isinstance(policy.observation_space, spaces.Dict) else ()
    if clash := sorted(OWN_NAMES & set(keys)):
        raise ValueError(
            f"The observation has the key {', '.join(map(repr, clash))}, which is that of an input or output of the "
            "ONNX model: give it another name, by a gymnasium.ObservationWrapper."
        )
    flow, name = _flow(policy), repr(policy.flow_spec["flow"])  # type: ignore[attr-defined]
    if not flow.starts_as_gaussian:
        raise ValueError(
            f"flow={name} is another library's, in whole or in part, whose noise and control flow are its own: "
            f"take one of flowrl's recipes ({', '.join(ONNX_FLOWS)})."
        )
    for layer in flow.modules():
        if isinstance(layer, ContinuousLayer) and layer.solver != "rk4":
            raise ValueError(
                f"flow={name} with solver={layer.solver!r} chooses its steps by the data, which an ONNX graph "
                "cannot. The same weights go with solver='rk4': set it on each of the flow's layers."
            )


def _flow(policy: Any) -> Any:
    return policy.actor.flow if hasattr(policy, "actor") else policy.action_net


def _check_box(policy: Any) -> None:
    """:raises ValueError: where the box of actions is another one in float32, in which an ONNX model computes"""
    low, high = policy.action_space.low, policy.action_space.high
    squashes = getattr(policy, "_squash", True)  # what only clips may clip to infinity
    with np.errstate(over="ignore", invalid="ignore"):  # of edges at infinity
        width, found = np.float64(high) - low, np.float64(np.float32(high)) - np.float32(low)
        wrong = np.flatnonzero((np.abs(found - width) > WIDTH_ERROR * width) & (squashes | np.isfinite(found)))
    if wrong.size:
        raise ValueError(
            f"to_onnx: an ONNX model computes in float32, in which the box of actions has another width at index "
            f"{wrong.tolist()} (narrow and far from zero, or beyond float32's range). Have the environment take "
            "actions from a box around zero: gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)."
        )


def _inputs(part: PolicyPart, batch: int) -> dict[str, Tensor]:
    """Something for each input, by its name."""
    generator = torch.Generator().manual_seed(batch)
    space = copy.deepcopy(part.policy.observation_space)  # with a generator of its own
    space.seed(batch)
    named = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    inputs = {
        key: torch.as_tensor(np.stack([_moderate(one.sample(), one) for _ in range(batch)]))
        for key, one in named.items()
    }
    if isinstance(part, Sample):
        return inputs | dict(noise=torch.randn(batch, part.noise_size, generator=generator))
    if isinstance(part, LogProb):
        sample = Sample(part.policy, part.normalization)
        noise = torch.randn(batch, part.noise_size, generator=generator)
        with torch.no_grad():
            actions = sample(*inputs.values(), noise)[0]
        # Every second one anywhere in the box: the tails, which the policy's own actions do not show
        uniform = torch.rand(actions.shape, generator=generator).mul(0.98).add(0.01).to(actions)
        actions[1::2] = (part.low + (part.high - part.low) * uniform)[1::2]
        return inputs | dict(action=actions)
    return inputs


def _moderate(sample: np.ndarray, space: spaces.Space) -> np.ndarray:
    """With standard normal numbers where bounds are as good as none, as Gymnasium has them where there are none."""
    if not isinstance(space, spaces.Box) or sample.dtype.kind != "f":
        return sample
    normal = space.np_random.standard_normal(sample.shape).astype(sample.dtype)
    return np.where((np.abs(space.low) > HUGE) & (np.abs(space.high) > HUGE), normal, sample)


@contextmanager
def _own_operations() -> Iterator[None]:
    """Let torch's exporter, which is the whole process's, know these operations for a while."""
    for name, symbolic in OPERATIONS.items():
        torch.onnx.register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        yield
    finally:
        for name in OPERATIONS:
            torch.onnx.unregister_custom_op_symbolic(name, OPSET)


def _export(part: PolicyPart, inputs: dict[str, Tensor]) -> bytes:
    graph = io.BytesIO()
    axes = {name: {0: "batch"} for name in (*inputs, *part.outputs)}
    try:
        with torch.no_grad(), _own_operations(), warnings.catch_warnings():
            # That the tracer sees one branch alone: what the branches ask for does not depend on the data, which
            # the comparison confirms. That this exporter is the older one: the newer does not take flows.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                part,
                tuple(inputs.values()),
                graph,  # type: ignore[arg-type]
                input_names=list(inputs),
                output_names=list(part.outputs),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # the exporter fails in many ways
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"flow={part.policy.flow_spec['flow']!r} has no ONNX form ({type(error).__name__}: "
            f"{reason[0] if reason else ''}): take one of flowrl's recipes ({', '.join(ONNX_FLOWS)}), and networks of "
            "standard layers."
        ) from error
    return graph.getvalue()


def _compare(part: PolicyPart, graph: bytes, trials: tuple[dict[str, Tensor], ...]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    taken = {given.name for given in session.get_inputs()}
    for inputs in trials:
        with torch.no_grad():
            expected = part(*inputs.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in taken})
        for name, ours, theirs in zip(part.outputs, expected, found, strict=True):
            error = _difference(ours.numpy(), theirs)
            if not error <= TOLERANCE:
                raise ValueError(
                    f"The ONNX model's {name} differs from torch's by {error:.1e}, more than {TOLERANCE:.0e} (flow "
                    f"{part.policy.flow_spec['flow']!r}); nothing was written."
                )


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest, relative to numbers larger than 1."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(ours))).max(initial=0.0))


def _write(part: PolicyPart, graph: bytes, output: str, path: Path) -> None:
    import onnx

    import flowrl

    model = onnx.load_from_string(graph)
    description = dict(
        flowrl=flowrl.__version__,
        output=output,
        flow=part.policy.flow_spec["flow"] if isinstance(part.policy.flow_spec["flow"], str) else "of the user's own",
        observation_space=describe_space(part.policy.observation_space),
        action_space=describe_space(part.policy.action_space),
    )
    if isinstance(part, Sample):
        description["noise"] = (
            f"independent standard normal numbers, float32, shape (batch, {part.noise_size}), drawn anew every time"
        )
    onnx.helper.set_model_props(model, dict(flowrl=json.dumps(description)))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
