"""Pictures of an evaluation and of runs: what stands on them. (How they look, people looked at.)"""

import numpy as np
import pytest

from minicnn.evaluation.metrics import Evaluation
from minicnn.insight.compare import RunCurves
from minicnn.insight.mistakes import Mistake
from minicnn.insight.range_test import RangeTest
from minicnn.report import plots
from minicnn.report.evaluation_plots import confusion_matrix, filters, worst_mistakes
from minicnn.report.run_plots import comparison, range_test, run_curves


def evaluation(classes=3):
    confusion = np.arange(classes**2).reshape(classes, classes)
    names = [f"class {i}" for i in range(classes)]
    return Evaluation(
        int(confusion.sum()),
        0.5,
        0.5,
        [0.5] * classes,
        [None] * classes,
        confusion.tolist(),
        names,
        1.0,
        0.0,
    )


def drawn(figure):
    """The figure's axes, after it was drawn, which is when matplotlib finds most faults."""
    assert plots.encoded(figure, "png").startswith(b"\x89PNG") and b"<svg" in plots.encoded(
        figure, "svg"
    )
    return figure.axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def run(name="a", epochs=4, validation=True):
    lines = [
        {
            "epoch": i + 1,
            "steps": 10 * (i + 1),
            "seconds": 2.0,
            "train_loss": 1 / (i + 1),
            "train_accuracy": 0.1 * i,
            "validation_loss": 1.0 if validation else None,
            "validation_accuracy": 0.2 * i if validation else None,
        }
        for i in range(epochs)
    ]
    return RunCurves(name, lines, {"optimizer": "sgd"}, {})


def test_the_confusion_matrix_shows_every_count_and_colours_parts_of_the_true_class():
    axes, _ = drawn(confusion_matrix(evaluation()))
    assert texts(axes) == [str(count) for count in range(9)]
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(
        100 * np.array([[0, 1 / 3, 2 / 3], [0.25, 4 / 12, 5 / 12], [6 / 21, 7 / 21, 8 / 21]])
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["class 0", "class 1", "class 2"]


def test_many_classes_have_no_numbers_in_their_confusion_matrix():
    axes, _ = drawn(confusion_matrix(evaluation(40)))
    assert texts(axes) == []


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_each_mistake_is_its_image_with_both_classes(channels):
    images = np.random.default_rng(0).integers(0, 255, (9, 5, 4, channels), np.uint8)
    found = [Mistake(7, 0, 2, 0.98765, 0.01), Mistake(3, 1, 0, 0.6, 0.4)]
    first, second = drawn(worst_mistakes(images, found, ["ant", "bee", "cat"], 255))
    assert (
        first.get_title() == "cat 98.8 %\nnot ant (#7)"
        and second.get_title() == "ant 60.0 %\nnot bee (#3)"
    )
    expected = images[7] / 255 if channels == 3 else images[7].mean(axis=2) / 255
    assert np.asarray(first.images[0].get_array()) == pytest.approx(expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_filters_are_all_there(channels):
    weights = np.random.default_rng(0).normal(size=(70, 3, 2, channels))
    axes, *_ = drawn(filters("conv1.weight", weights))
    assert axes.get_title().startswith("Filters of conv1.weight: 64 of 70")
    shown = np.asarray(axes.images[0].get_array())
    if channels == 3:
        assert shown[0, 0] == pytest.approx(0.5 + 0.5 * weights[0, 0, 0] / np.abs(weights).max())
    else:
        assert np.isfinite(shown.astype(float)).sum() >= 64 * 6 * channels
        low, high = axes.images[0].get_clim()
        assert axes.images[0].get_cmap().name == "RdBu" and low == -high  # 0 is white


def test_the_curves_of_a_run_are_loss_and_accuracy_of_both_sets():
    loss, accuracy = drawn(run_curves(run()))
    assert loss.lines[0].get_ydata() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert accuracy.lines[1].get_ydata() == pytest.approx([0, 20, 40, 60])
    assert (loss.get_xlabel(), loss.get_ylabel(), accuracy.get_ylabel()) == (
        "epoch",
        "mean loss",
        "accuracy (%)",
    )
    assert [len(axes.lines) for axes in drawn(run_curves(run(validation=False)))] == [1, 1]


def test_runs_are_compared_by_epoch_step_and_second():
    figure = comparison([run("a"), run("b", epochs=2), run("c", epochs=1)], 0.2)
    loss, epochs, steps, seconds = drawn(figure)
    assert [len(axes.lines) for axes in (loss, epochs, steps, seconds)] == [
        3,
        4,
        4,
        4,
    ]  # and the target
    assert steps.lines[0].get_xdata() == pytest.approx([10, 20, 30, 40])
    assert seconds.lines[1].get_xdata() == pytest.approx([2, 4])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a",
        "b",
        "c",
        "target 20 %",
    ]
    assert seconds.get_xlabel() == "time (s)" and epochs.get_ylabel() == "validation accuracy (%)"


def test_more_runs_than_colours_are_told_apart():
    axes = drawn(comparison([run(str(i)) for i in range(12)], 0.5))[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 12


def test_the_range_test_is_on_a_logarithmic_axis_with_its_marks():
    rates = np.geomspace(1e-4, 1, 30)
    (axes,) = drawn(range_test(RangeTest(rates, rates, 2 - rates, 1e-3, 1e-1, "the range is done")))
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "learning rate, logarithmic"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[2:] == ["suggestion: 1.0e-02", "steepest fall: 1.0e-03", "lowest: 1.0e-01"]
    (axes,) = drawn(range_test(RangeTest(rates, rates, rates, None, None, "the range is done")))
    assert len(axes.lines) == 2


def test_every_picture_of_a_run_has_a_title_and_ticks_at_whole_epochs():
    runs = [run("a", epochs=2), run("b", epochs=2)]
    for figure in (run_curves(runs[0]), comparison(runs, 0.2)):
        assert figure.get_suptitle()
        for axes in drawn(figure):
            if axes.get_xlabel() == "epoch":
                assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_losses_that_are_far_apart_are_on_an_axis_that_says_so():
    far = run()
    for line, loss in zip(far.epochs, (5.0, 0.5, 0.05, 0.005), strict=True):
        line["train_loss"] = loss
    axes = drawn(comparison([far, run("b")], 0.2))[0]
    assert axes.get_yscale() == "log" and "logarithmic" in axes.get_ylabel()


@pytest.mark.parametrize(
    "name", ["$\\frac{", "a$b$c", "猫\U0001f600", "a\nb\x1b[31m", "x" * 300, "\udcff"]
)
def test_names_from_users_are_shown_as_they_are(name):
    shown = evaluation()
    shown.classes[0] = name
    drawn(confusion_matrix(shown))
    images = np.zeros((1, 4, 4, 1), np.uint8)
    drawn(worst_mistakes(images, [Mistake(0, 0, 1, 0.9, 0.1)], [name, "b"], 255))
    drawn(comparison([run(name), run("b")], 0.2))
    assert "\n" not in plots.shown(name) and len(plots.shown(name)) <= 40
