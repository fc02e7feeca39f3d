"""Fitting a flow: to data by maximum likelihood, or to an unnormalised density by variational inference."""

from flowrl.fit.likelihood import DensityFit, fit_density
from flowrl.fit.variational import VariationalFit, fit_variational

__all__ = ["DensityFit", "VariationalFit", "fit_density", "fit_variational"]
