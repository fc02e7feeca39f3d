"""Panels are square, of one size, and within the figure."""

import pytest

from flowrl.plots.panels import square_panels


@pytest.mark.parametrize("color_bars", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (4, 2)])
def test_panels_are_square(rows, columns, color_bars):
    figure, panels, bars = square_panels(rows, columns, color_bars)
    assert panels.shape == (rows, columns) and len(bars) == (rows if color_bars else 0)
    width, height = figure.get_size_inches()
    sides = {(round(box.width * width, 6), round(box.height * height, 6)) for box in map(position, panels.flat)}
    assert len(sides) == 1 and len(set(*sides)) == 1
    for box in map(position, panels.flat):
        assert 0 < box.x0 < box.x1 < 1 and 0 < box.y0 < box.y1 < 1
    for row, bar in zip(panels, bars):
        panel, beside = position(row[-1]), position(bar)
        assert (beside.y0, beside.y1) == pytest.approx((panel.y0, panel.y1)) and panel.x1 < beside.x0 < beside.x1 < 1


def position(axes):
    return axes.get_position()
