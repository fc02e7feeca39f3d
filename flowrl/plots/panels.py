"""Equal square panels, placed in inches.

matplotlib's constrained layout would take more than half of a picture's time, and TensorBoard gets one at every
evaluation.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# In inches
SIDE = 1.2  # of a panel
LEFT, RIGHT, BOTTOM, TOP = 0.85, 0.2, 0.5, 0.3
BESIDE, BELOW = 0.3, 0.65  # between two panels
BAR_GAP, BAR, BAR_ROOM = 0.1, 0.08, 0.7  # before a colour bar, of it, for it with its labels

DOTS = 200  # an inch; many on few inches, since TensorBoard shrinks a picture to a card, and its letters with it


def square_panels(
    rows: int, columns: int, color_bars: bool = False, **sharing: Any
) -> tuple[Figure, NDArray[Any], list[Axes]]:
    """
    A figure of equal square panels.

    :param rows: how many below each other
    :param columns: how many beside each other
    :param color_bars: whether each row has room for a colour bar at its end
    :param sharing: ``sharex`` and ``sharey``, as `matplotlib.figure.Figure.subplots` takes them
    :return: the figure; its panels, shape ``(rows, columns)``; and where the rows' colour bars go
    """
    width = LEFT + columns * SIDE + (columns - 1) * BESIDE + RIGHT + (BAR_ROOM if color_bars else 0.0)
    height = TOP + rows * SIDE + (rows - 1) * BELOW + BOTTOM
    figure = Figure(figsize=(width, height), dpi=DOTS)
    right = LEFT + columns * SIDE + (columns - 1) * BESIDE
    edges = dict(left=LEFT / width, right=right / width, bottom=BOTTOM / height, top=1 - TOP / height)
    between = dict(wspace=BESIDE / SIDE, hspace=BELOW / SIDE)
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw=edges | between, **sharing)
    bottoms = [BOTTOM + (rows - 1 - row) * (SIDE + BELOW) for row in range(rows if color_bars else 0)]
    bars = [
        figure.add_axes(((right + BAR_GAP) / width, bottom / height, BAR / width, SIDE / height), label="<colorbar>")
        for bottom in bottoms
    ]
    return figure, panels, bars
