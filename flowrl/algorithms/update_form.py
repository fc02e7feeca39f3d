"""Which form of its update an algorithm runs: one call where the kernels can serve, torch's operations elsewhere."""

import logging
from typing import Any

from flowrl.compiled import compiled_update

log = logging.getLogger(__name__)


class UpdateFormMixin:
    """Says which form runs, and why; logs it where it is torch's, once, and again where it changes in training."""

    update_form: str = "torch"
    """``"C"``, ``"CUDA graph"`` or ``"torch"``."""
    update_reason: str = "no update has been asked for yet"
    """Why it is torch's; empty where it is one call."""

    def choose_update(self) -> Any:
        """
        The compiled update where there is one, asked for anew before every training step: a hook may have come.

        :return: the update as one call; None: torch's operations
        """
        update, reason = compiled_update(self)
        form = "torch" if update is None else getattr(update, "form", "C")
        if (form, reason) != (self.update_form, self.update_reason):
            name = type(self).__name__
            if update is None:
                log.warning("flowrl's %s updates in torch's operations, one by one: %s.", name, reason)
            else:
                log.info("flowrl's %s updates by one call (%s).", name, form)
        self.update_form, self.update_reason = form, reason
        return update

    def _excluded_save_params(self) -> list[str]:
        """How a model runs here says nothing of how it runs where it is loaded."""
        return [*super()._excluded_save_params(), "update_form", "update_reason"]  # type: ignore[misc]
