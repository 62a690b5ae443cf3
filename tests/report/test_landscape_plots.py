"""Pictures of the loss: axes are named, marks are where they belong."""

from dataclasses import replace

import numpy as np
import pytest

from minicnn.evaluation.loss import Loss
from minicnn.insight.descent import Trajectory
from minicnn.insight.directions import Direction
from minicnn.insight.prediction import loss_curve
from minicnn.insight.slice import Slice
from minicnn.insight.surface import Surface
from minicnn.report import landscape_plots, plots

WEIGHT = Direction("conv1.weight[0,0,0,3]", np.ones(1, np.float32), 0.25, -1.0, 1.0)
OTHER = Direction("random direction 2", np.ones(1, np.float32), 0.0, -2.0, 2.0)
LOWEST = (8, 2)  # row, column


def surface(steep=False):
    x, y = np.linspace(-1, 1, 9), np.linspace(-2, 2, 11)
    losses = (
        (0.1 if steep else 1.0) + (x[None] - x[LOWEST[1]]) ** 2 + (y[:, None] - y[LOWEST[0]]) ** 2
    )
    return Surface(WEIGHT, OTHER, x, y, losses**3 if steep else losses, 0.9)


def trajectory(name="gd", points=((0.9, -1.9), (0.2, 0.4))):
    points = np.array(points)
    return Trajectory(name, 0.1, points, np.ones(len(points)), np.ones(points.shape), "converged")


def texts(drawn):
    return {
        label
        for axes in drawn.axes
        for label in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title())
    }


@pytest.mark.parametrize("steep", [False, True])
def test_a_surface_has_named_axes_and_its_minimum_and_the_model_in_place(steep):
    drawn = landscape_plots.surface_plot(surface(steep), [trajectory(), trajectory("adam")])
    assert {WEIGHT.label, OTHER.label, "mean loss C" + ", logarithmic" * steep} <= texts(drawn)
    assert drawn.get_suptitle().startswith("Loss around the weights")
    flat = drawn.axes[1]
    drawn_lines = [line for line in flat.lines if len(line.get_xdata())]
    places = {line.get_label(): line.get_xydata()[0].tolist() for line in drawn_lines}
    (star,) = [
        place for label, place in places.items() if label.startswith("lowest on the grid, C = ")
    ]
    (own,) = [place for label, place in places.items() if label.startswith("the model, C = 0.9")]
    assert star == [np.linspace(-1, 1, 9)[2], np.linspace(-2, 2, 11)[8]] and own == [0.25, 0.0]
    assert places["gd"] == places["adam"] == [0.9, -1.9]
    assert plots.encoded(drawn, "png")[16:20] == (800).to_bytes(4, "big")


@pytest.mark.parametrize("power", [2, 9])
def test_ticks_of_a_logarithmic_surface_are_round_and_few(power):
    far = surface(True)
    far.losses[:] = np.geomspace(1, 10**power, far.losses.size).reshape(far.losses.shape)
    solid, *_, bar = landscape_plots.surface_plot(far).axes
    for axis in (solid.zaxis, bar.yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        assert 3 <= len(labels) <= landscape_plots.MOST_TICKS
        assert {f"{float(label):e}"[0] for label in labels} <= {"1", "2", "5"}


def test_an_interrupted_surface_is_drawn_as_far_as_it_goes():
    part = surface()
    part.losses[5:] = np.nan
    assert plots.encoded(landscape_plots.surface_plot(part), "png")


def test_the_trajectory_of_a_run_is_drawn_on_its_principal_directions():
    one = Direction(
        "principal direction 1", np.ones(1, np.float32), 0.0, -1, 1, np.array([-0.5, 0.0])
    )
    found = surface()
    both = Surface(one, one, found.x_values, found.x_values, found.losses[:9, :9], 1.0)
    solid, flat = landscape_plots.surface_plot(both).axes[:2]
    assert "trajectory of the run" in {line.get_label() for line in flat.lines}
    heights = [line.get_data_3d()[2] for line in solid.lines]
    losses = both.losses_at(np.array([[-0.5, -0.5], [0.0, 0.0]]))
    assert heights[0] == pytest.approx(losses)
    assert np.isfinite(heights[0]).all()


def test_every_mark_of_a_surface_is_in_the_legend():
    drawn = landscape_plots.surface_plot(surface(), [trajectory(), trajectory("adam")])
    (legend,) = drawn.subfigs[1].legends
    words = [text.get_text().partition(",")[0] for text in legend.get_texts()]
    assert words == ["gd", "adam", "start", "lowest on the grid", "the model"]


def test_labels_of_the_solid_are_inside_of_their_panel():
    named = surface()
    label = "principal direction 1 (100 %)"
    named = replace(named, x=replace(named.x, label=label), y=replace(named.y, label=label))
    drawn = landscape_plots.surface_plot(named, [trajectory()])
    drawn.draw_without_rendering()
    panel = drawn.subfigs[0].bbox
    (solid,) = drawn.subfigs[0].axes
    for axis in (solid.xaxis, solid.yaxis, solid.zaxis):
        box = axis.label.get_window_extent()
        assert panel.x0 <= box.x0 and box.x1 <= panel.x1
        assert panel.y0 <= box.y0 and box.y1 <= panel.y1


def test_losses_between_the_points_of_a_grid_are_interpolated():
    found = surface()
    inside = np.array([[found.x_values[3], found.y_values[4]], [-1.0, -2.0], [1.0, 2.0]])
    assert found.losses_at(inside) == pytest.approx(
        [found.losses[4, 3], found.losses[0, 0], found.losses[-1, -1]]
    )
    between = np.array([[-0.875, -1.8]])  # the middle of a cell: the mean of its corners
    assert found.losses_at(between) == pytest.approx([found.losses[:2, :2].mean()])
    assert np.isnan(found.losses_at(np.array([[1.01, 0.0], [0.0, -2.5]]))).all()


def test_a_slice_has_a_panel_for_each_learning_rate_with_its_verdict():
    values = np.linspace(-1, 1, 21)
    descent = Trajectory(
        "gd",
        0.1,
        np.array([[0.9], [0.5], [0.3]]),
        np.array([0.8, 0.3, 0.1]),
        np.array([[1.8], [1.0], [0.6]]),
        "",
    )
    cut = Slice(WEIGHT, values, values**2, 0.0625, 0.5, 0.0, 2.0, [descent, descent])
    drawn = landscape_plots.slice_plot(cut)
    assert (
        len(drawn.axes) == 3
        and len(landscape_plots.slice_plot(replace(cut, descents=[descent] * 5)).axes) == 6
    )
    (steps,) = drawn.axes[1].get_legend().get_texts()
    assert steps.get_text() == "steps"
    assert {"learning rate 0.1:\nconverging", WEIGHT.label, "mean loss C"} <= texts(drawn)
    assert any("2/C'' = 1" in text for text in texts(drawn))
    (tangent,) = [
        line for line in drawn.axes[0].lines if line.get_label() == "tangent, dC/dw = 0.5"
    ]
    (x0, y0), (x1, y1) = tangent.get_xydata()
    assert (y1 - y0) / (x1 - x0) == pytest.approx(0.5) and y0 + 0.5 * (0.25 - x0) == pytest.approx(
        0.0625
    )


def test_a_loss_curve_has_the_loss_its_derivative_and_the_images():
    curve = loss_curve(Loss("cross_entropy", 3), np.eye(3), np.arange(3))
    drawn = landscape_plots.loss_curve_plot(curve)
    assert {
        "loss C",
        "derivative dC/da",
        "predicted probability a of the true class",
    } <= texts(drawn)
    assert "cross_entropy" in drawn.get_suptitle()
    assert all(axes.get_legend() for axes in drawn.axes)
    assert "3 images" in {line.get_label() for line in drawn.axes[0].lines}
