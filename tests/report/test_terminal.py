"""Pictures of characters."""

import io

import numpy as np
from rich.console import Console

from minicnn.report.terminal import heat_map, show_images, sparkline


def printed(grid, marks=None, width=80, **options):
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=options.pop("colours", None),
        force_terminal=True,
    )
    heat_map(grid, marks, console, **options)
    return console.file.getvalue()


def test_a_sparkline_goes_from_the_lowest_to_the_highest_bar():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert sparkline([]) == ""


def test_what_is_not_finite_is_a_gap_in_a_sparkline():
    assert sparkline([0.0, np.nan, 1.0, np.inf]) == "▁ █ "
    assert sparkline([np.nan, np.nan]) == "  "


def test_a_long_sparkline_is_made_of_means():
    assert sparkline(np.repeat([0, 1, 0], 100), width=3) == "▁█▁"


def test_a_heat_map_without_colours_is_light_where_low_and_dark_where_high():
    assert printed(np.array([[0.0, 1.0], [0.5, np.nan]])) == "  @@\n++·\n"


def test_a_mark_stands_on_its_cell():
    assert printed(np.array([[0.0, 1.0], [0.5, 1.0]]), {(0, 1): "o"}) == "  o@\n++@@\n"


def test_a_large_heat_map_is_thinned_to_what_fits_and_keeps_its_marks():
    lines = printed(np.zeros((101, 101)), {(100, 100): "M"}, width=40).splitlines()
    assert len(lines) == 24 and max(map(len, lines)) <= 40
    assert lines[-1].endswith("M")


def test_a_heat_map_with_colours_has_the_lowest_and_the_highest():
    out = printed(np.array([[0.0, 1.0]]), colours="truecolor")
    assert "48;2;68;1;84" in out and "48;2;253;231;37" in out


def images(numbers, captions, **options):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    show_images("these", numbers, captions, console=console, **options)
    return console.file.getvalue().splitlines()


def test_images_stand_side_by_side_over_their_captions():
    white, black = np.ones((3, 2)), np.zeros((3, 2))
    lines = images(np.array([white, black]), [("white", "a"), ("[b]lack", "b")], rows=1)
    assert lines == ["", "these", "@@@@·", "@@@@·", "@@@@·", "whit  [b]l", "a     b"]


def test_a_large_image_is_shown_as_means_over_squares():
    image = np.kron(np.eye(14), np.ones((2, 2)))
    lines = images(image[np.newaxis], [()], rows=1)[2:]
    assert [line.index("@@") for line in lines] == [2 * i for i in range(14)]
    assert images(image[np.newaxis, :27, :28], [()], rows=1)[2:] == lines


def test_as_many_images_are_shown_as_fit_on_the_rows():
    numbers = np.random.default_rng(0).random((50, 4, 4))
    assert len(images(numbers, [()] * 50, rows=2)) == 2 + 2 * 4
    assert max(map(len, images(numbers, [()] * 50, rows=2))) <= 80


def test_the_next_row_goes_on_with_the_next_images():
    numbers = np.zeros((3, 14, 14))
    numbers[2, 0, 0] = numbers[0, 1, 1] = 1
    lines = images(numbers, [(name,) for name in "abc"], rows=2)[2:]
    assert lines[1].startswith("  @@") and lines[14].split() == ["a", "b"]
    assert lines[15].startswith("@@") and lines[-1] == "c"
