"""Flows of nflows (Durkan et al. 2020); the library itself is not imported here."""

from __future__ import annotations

from torch import Tensor

from flowrl.adapters.external import ExternalModel


class NflowsFlow(ExternalModel):
    """A flow of nflows: its base, its transform and its embedding of the context."""

    def draw(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if context is None:
            return self.model.sample_and_log_prob(n)
        x, log_prob = self.model.sample_and_log_prob(1, context=context)
        return x.squeeze(1), log_prob.squeeze(1)

    def center(self, n: int, context: Tensor | None) -> Tensor | None:
        model = self.model
        embedded = model._embedding_net(context)
        try:
            mean = model._distribution.mean(embedded)
        except Exception as error:
            if type(error).__name__ not in ("NoMeanException", "NotImplementedError"):
                raise
            return None
        like = next(model.parameters())
        return model._transform.inverse(mean.expand(n, -1).to(like), embedded)[0]
