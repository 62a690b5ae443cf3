"""The health of a run as a picture and as sparklines."""

import io

import numpy as np
import pytest
from rich.console import Console

from minicnn.report.plots import encoded
from minicnn.report.run_plots import health
from minicnn.report.terminal import show_health
from minicnn.training.events import Recorded
from minicnn.training.record import Record

EMPTY = np.empty((0, 0))


def record(lines, dead=True):
    """A record whose gradients are 1, 2, 3, ... and whose updates are tenths of them."""
    made = [
        Recorded(0.0, 0, {}, {}, {"dense1.weight": 1.0}, {}, {}, {"relu1": 0.5} if dead else {})
    ]
    for n in range(1, lines + 1):
        norms = {
            "dense1.weight": float(n),
            "dense1.bias": 9.0,
            "dense2.weight": None if n == 2 else 0.0,
        }
        ratios = {name: norm and norm / 10 for name, norm in norms.items()}
        made.append(
            Recorded(n / 2, n, norms, ratios, {}, {}, {}, {"relu1": n / 10} if dead else {})
        )
    return Record(made, np.empty(0), EMPTY, EMPTY)


def test_there_is_a_panel_a_figure_and_a_curve_a_weight_over_the_epochs():
    gradients, updates, dead = health(record(4)).axes
    labels = ["dense1.weight", "dense2.weight", "dense2.weight is 0"]
    assert [line.get_label() for line in gradients.lines] == labels
    assert not np.isfinite(gradients.lines[1].get_ydata()).any()  # 0 is no place on this axis
    zeros = gradients.lines[2]
    assert zeros.get_xdata() == pytest.approx([0.5, 1.5, 2]) and zeros.get_linestyle() == "None"
    np.testing.assert_array_equal(
        gradients.lines[0].get_xydata(), [[0.5, 1], [1, 2], [1.5, 3], [2, 4]]
    )
    np.testing.assert_allclose(updates.lines[0].get_ydata(), [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(dead.lines[0].get_ydata(), [10, 20, 30, 40])
    assert (gradients.get_ylabel(), dead.get_ylabel(), dead.get_xlabel()) == (
        "gradient (L2),\nlogarithmic",
        "dead channels (%)",
        "epochs done",
    )


def test_a_long_record_is_drawn_as_means_over_neighbours_with_whole_epochs():
    gradients, _, dead = health(record(150)).axes
    assert gradients.lines[0].get_xydata()[0] == pytest.approx([1, 2])  # of the lines 1 to 3
    assert len(gradients.lines[0].get_xdata()) == 50
    assert all(float(tick).is_integer() for tick in dead.get_xticks())


@pytest.mark.parametrize("lines", [1, 3])
def test_a_network_without_relu_has_two_panels_and_zeros_and_gaps_can_be_drawn(lines):
    drawn = health(record(lines, dead=False))
    assert len(drawn.axes) == 2 and encoded(drawn, "png").startswith(b"\x89PNG")


def test_a_network_that_learns_nothing_any_more_can_be_drawn():
    made = record(2)
    for line in made.lines:
        line.gradient_norm.update(dict.fromkeys(line.gradient_norm, 0.0))
    assert encoded(health(made), "png").startswith(b"\x89PNG")


def test_the_terminal_has_a_sparkline_a_weight_and_the_last_figure():
    screen = Console(file=io.StringIO(), width=80, color_system=None)
    show_health(record(4), screen)
    lines = [line.split() for line in screen.file.getvalue().splitlines() if line.strip()]
    assert lines[0] == ["gradient", "norm", "last"]
    name, bars, last = lines[1]
    assert (name, bars[0], bars[-1], last) == ("dense1.weight", "▁", "█", "4")
    assert [line[0] for line in lines] == [
        *["gradient", "dense1.weight", "dense2.weight"],
        *["update", "dense1.weight", "dense2.weight"],
        "dead",
        "relu1",
    ]


def test_a_record_of_the_start_alone_shows_nothing():
    screen = Console(file=io.StringIO(), width=80, color_system=None)
    show_health(record(0), screen)
    assert screen.file.getvalue() == ""
