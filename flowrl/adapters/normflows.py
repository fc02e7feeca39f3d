"""Models of normflows (Stimper et al. 2023); the library itself is not imported here."""

from __future__ import annotations

from torch import Tensor

from flowrl.adapters.external import ExternalModel


class NormflowsFlow(ExternalModel):
    """A model of normflows: its base and its flows."""

    def draw(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.sample(n) if context is None else self.model.sample(n, context=context)

    def center(self, n: int, context: Tensor | None) -> Tensor | None:
        model = self.model
        if hasattr(model.q0, "context_encoder"):
            mean = model.q0.context_encoder(context)[..., : self.features]
        elif isinstance(getattr(model.q0, "loc", None), Tensor) and model.q0.loc.numel() == self.features:
            mean = model.q0.loc.reshape(1, -1).expand(n, -1)
        else:
            return None
        return model.forward(mean) if context is None else model.forward(mean, context=context)
