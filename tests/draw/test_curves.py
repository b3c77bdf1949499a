"""Loss curves of any names and numbers."""

import io

import numpy as np

from jaxopt_input.draw.curves import loss_curves


def test_names_are_no_mathematics():
    losses = np.array([[1.0, np.nan, 2.0], [np.inf, 1.0, 0.5], [1.0, 1.0, 1.0]])
    figure = loss_curves(losses, ["a $ and \\frac{", "b_{", "b_{"], logarithmic=True)
    figure.savefig(io.BytesIO(), format="png")
    assert len(figure.axes[0].get_legend().get_texts()) == 2


def test_many_targets_have_no_legend():
    assert loss_curves(np.ones((11, 3)), [f"class:{n}" for n in range(11)]).axes[0].get_legend() is None


def test_steps_are_whole_numbers():
    figure = loss_curves(np.ones((1, 3)), ["a"])
    figure.canvas.draw()
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())


def test_the_legend_lies_beside_the_curves():
    figure = loss_curves(np.ones((3, 5)), ["a", "b", "c"])
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
