"""The error of numbers that have ceased to be numbers."""


class Diverged(ValueError):
    """An action, a loss or its gradient is NaN or infinite: training has diverged, or was given such observations."""
