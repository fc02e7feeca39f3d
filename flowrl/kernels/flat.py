"""Parameters laid end to end in one tensor, so that one kernel updates all of them; and Adam over such a tensor."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from flowrl.kernels.adam import AdamJob


class FlatParameters:
    """
    One tensor that holds parameters and one that holds their gradients; the parameters become views of it.

    :param parameters: in the order in which they shall lie
    """

    @torch.no_grad()
    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = list(parameters)
        self.sizes = [parameter.numel() for parameter in parameters]
        self.data = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradient = torch.zeros_like(self.data)
        self.values = self.views(self.data)
        self.gradients = self.views(self.gradient)
        self._places = [value.data_ptr() for value in self.values]
        self.attach()

    def views(self, flat: Tensor) -> list[Tensor]:
        """A flat tensor's parts in the parameters' shapes."""
        parts = flat.split(self.sizes)
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]

    def offset(self, parameter: Tensor) -> int:
        """Where a parameter begins."""
        (place,) = (i for i, other in enumerate(self.parameters) if other is parameter)
        return sum(self.sizes[:place])

    @torch.no_grad()
    def attach(self) -> None:
        """Make parameters and gradients views again, after somebody has put other tensors in their place.

        `zero_grad` sets gradients to None, a backward pass then makes new ones, and loading a model of SB3's replaces
        the data of the entropy coefficient.
        """
        for parameter, data, place, gradient in zip(self.parameters, self.values, self._places, self.gradients):
            if parameter.data_ptr() != place:
                data.copy_(parameter)
                parameter.data = data
            if parameter.grad is not gradient:
                if parameter.grad is None:
                    gradient.zero_()
                else:
                    gradient.copy_(parameter.grad)
                parameter.grad = gradient


class FlatAdam(torch.optim.Adam):
    """
    Adam over flat parameters in one fused kernel; its state dictionary is that of Adam over the parameters themselves.

    :param optimizer: the Adam that it replaces, whose parameters, settings and state it takes over
    :param first: those of its parameters that shall lie first, in this order; the others follow
    :raises ValueError: see :func:`why_not_flat`
    """

    def __init__(self, optimizer: torch.optim.Optimizer, first: Sequence[Parameter] = ()) -> None:
        reason = why_not_flat(optimizer)
        if reason:
            raise ValueError(reason)
        (group,) = optimizer.param_groups
        self.originals: list[Parameter] = originals(optimizer)
        state = optimizer.state_dict()
        taken = set(map(id, first))
        self.flat = FlatParameters([*first, *(other for other in self.originals if id(other) not in taken)])
        self.parameter = Parameter(self.flat.data)
        self.parameter.grad = self.flat.gradient
        settings = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")}
        super().__init__([self.parameter], **settings, fused=True)
        self.load_state_dict(state)

    def __reduce__(self) -> tuple[Any, ...]:
        # The parameters' copies are views of nothing: they are laid end to end anew.
        return _rebuild, (self.originals, self._places(), self.state_dict())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """See :meth:`torch.optim.Adam.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.flat.attach()
        self._adam()
        return loss

    def move(self) -> None:
        """A step with the gradients that lie in the flat tensor, without what torch puts around every `step` for
        profilers; with it where a hook listens."""
        if self._has_hooks():
            self.step()
        else:
            self._adam()

    @torch.no_grad()
    def _adam(self) -> None:
        frozen = [
            (value, value.clone(), gradient)
            for parameter, value, gradient in zip(self.flat.parameters, self.flat.values, self.flat.gradients)
            if not parameter.requires_grad
        ]
        for _, _, gradient in frozen:
            gradient.zero_()
        group, state = self.param_groups[0], self.state[self.parameter]
        state["step"] += 1
        torch._fused_adam_(  # type: ignore[call-overload]
            *([self.flat.data], [self.flat.gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]]),
            **dict(lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"]),
            **dict(weight_decay=group["weight_decay"], amsgrad=False, maximize=group["maximize"]),
        )
        for value, before, _ in frozen:
            value.copy_(before)

    def is_plain(self) -> bool:
        """Whether a step is Adam's and nothing else: no hook listens, and no parameter is frozen."""
        return not self._has_hooks() and all(parameter.requires_grad for parameter in self.flat.parameters)

    def describe(self, job: AdamJob) -> None:
        """Tell the C kernel of Adam what a step would now be."""
        job.read(self.flat.data, self.flat.gradient, self.param_groups[0], self.state[self.parameter])

    def _has_hooks(self) -> bool:
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)

    def state_dict(self) -> dict[str, Any]:
        """As Adam over the parameters themselves would give it, so that either loads the other's."""
        group, state = self.param_groups[0], self.state[self.parameter]
        views = {key: dict(zip(self._places(), self.flat.views(state[key]))) for key in ("exp_avg", "exp_avg_sq")}
        count = len(self.originals)
        per_parameter = {
            i: dict(step=state["step"].clone(), **{key: view[i].clone() for key, view in views.items()})
            for i in range(count)
            if state["step"] > 0
        }
        settings = {key: value for key, value in group.items() if key != "params"}
        return dict(state=per_parameter, param_groups=[settings | dict(fused=None, params=list(range(count)))])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Take over the state of Adam over the parameters themselves.

        :param state_dict: as :meth:`state_dict` gives it
        :raises ValueError: if it is of other parameters
        """
        (group,) = state_dict["param_groups"]
        if len(group["params"]) != len(self.originals):
            raise ValueError(
                f"The optimiser's state is of {len(group['params'])} parameters, and there are {len(self.originals)}."
            )
        self.param_groups[0] |= {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "maximize")}
        saved = state_dict["state"]  # of the parameters that have had a gradient
        average, square = torch.zeros_like(self.flat.data), torch.zeros_like(self.flat.data)
        for i, exp_avg, exp_avg_sq in zip(self._places(), self.flat.views(average), self.flat.views(square)):
            if i in saved:
                exp_avg.copy_(saved[i]["exp_avg"])
                exp_avg_sq.copy_(saved[i]["exp_avg_sq"])
        steps = max((float(state["step"]) for state in saved.values()), default=0.0)
        step = torch.tensor(steps, dtype=torch.float32, device=self.flat.data.device)
        self.state[self.parameter] = dict(step=step, exp_avg=average, exp_avg_sq=square)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to zero; they are never None."""
        self.flat.gradient.zero_()
        for parameter, gradient in zip(self.flat.parameters, self.flat.gradients):
            parameter.grad = gradient

    def _places(self) -> list[int]:
        """For each parameter in the order in which they lie, its place in the original optimiser."""
        place = {id(parameter): i for i, parameter in enumerate(self.originals)}
        return [place[id(parameter)] for parameter in self.flat.parameters]


def _rebuild(parameters: list[Parameter], places: list[int], state: dict[str, Any]) -> FlatAdam:
    optimizer = FlatAdam(torch.optim.Adam(parameters), [parameters[i] for i in places])
    optimizer.load_state_dict(state)
    return optimizer


def originals(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    """The parameters that an optimiser moves, not the flat tensor that they lie in."""
    return optimizer.originals if isinstance(optimizer, FlatAdam) else list(optimizer.param_groups[0]["params"])


def why_not_flat(optimizer: torch.optim.Optimizer) -> str | None:
    """Why an optimiser has no flat form; None where it has one."""
    if type(optimizer) not in (torch.optim.Adam, FlatAdam):
        return f"the optimiser is {type(optimizer).__name__}, not torch.optim.Adam"
    (group, *others) = optimizer.param_groups
    if others or group["amsgrad"] or group.get("decoupled_weight_decay"):
        return "the optimiser has several parameter groups, amsgrad or decoupled weight decay"
    if len({(parameter.dtype, parameter.device) for parameter in originals(optimizer)}) != 1:
        return "the optimiser's parameters differ in dtype or device"
    return None


def is_same(prepared: list[Any], now: list[Any]) -> bool:
    """Whether a model still is the one (its id, first) and has the optimisers that something was prepared for."""
    return prepared[0] == now[0] and all(a is b for a, b in zip(prepared[1:], now[1:], strict=True))
