"""An environment as a picture: ``render_mode="rgb_array"``."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def square_axes(bound: float) -> "Axes":
    """
    Axes over [-bound, bound]^2 that fill a figure of 320 x 320 pixels.

    :param bound: half a side
    :return: the axes
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, so that training never imports it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 3.2), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-bound, bound), ylim=(-bound, bound), aspect="equal")
    axes.axis("off")
    return axes


def pixels(axes: "Axes") -> NDArray[np.uint8]:
    """
    :param axes: what :func:`square_axes` made, with something drawn
    :return: red, green and blue, shape ``(320, 320, 3)``
    """
    canvas: Any = axes.figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
