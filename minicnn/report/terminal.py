"""Pictures for the terminal, of characters: sparklines, heat maps, images. They need no extra.

On a terminal a heat map has colours; elsewhere it is made of characters from light to dark.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from minicnn.insight.mistakes import tiles
from minicnn.report.console import literal, make_console, say, table
from minicnn.training.record import Record

BARS = "▁▂▃▄▅▆▇█"
SHADES = " .:-=+*#%@"
MISSING = "·"
IMAGE_COLUMNS = 78  # of the terminal, for images side by side
LARGEST_IMAGE = 14  # rows and columns; what is larger is shown as means over squares
# Nine colours of the map viridis, from low to high: equal steps in brightness, so that they are in
# order also in grey.
VIRIDIS = (
    "#440154",
    "#472d7b",
    "#3b528b",
    "#2c728e",
    "#21918c",
    "#28ae80",
    "#5ec962",
    "#addc30",
    "#fde725",
)


def sparkline(values: ArrayLike, width: int | None = None) -> str:
    """``values`` as a row of bars, at most ``width`` of them (then each is a mean); one that is not
    finite is a space.

    >>> sparkline([1, 2, 3, 2])
    '▁▄█▄'
    """
    row = np.asarray(values, float)
    if width is not None and len(row) > width:
        row = np.array([part.mean() for part in np.array_split(row, width)])
    return "".join(" " if level < 0 else BARS[level] for level in _levels(row, len(BARS)))


def heat_map(
    grid: np.ndarray,
    marks: Mapping[tuple[int, int], str] | None = None,
    console: Console | None = None,
    most_rows: int = 24,
    most_columns: int = 36,
) -> None:
    """Print ``grid`` [rows, columns], row 0 at the top, each number a cell of two characters; NaN
    is a dot.

    ``marks`` puts characters on cells, by (row, column). A larger grid is shown by every second,
    third, ... number, so that at most ``most_rows`` and ``most_columns`` remain, and no more than
    the console is wide.
    """
    console = console or make_console()
    grid, marks = np.asarray(grid, float), marks or {}
    most_columns = max(1, min(most_columns, console.width // 2))
    rows = np.linspace(0, len(grid) - 1, min(len(grid), most_rows)).round().astype(int)
    columns = (
        np.linspace(0, grid.shape[1] - 1, min(grid.shape[1], most_columns)).round().astype(int)
    )
    shown = grid[np.ix_(rows, columns)]
    placed = {
        (int(np.abs(rows - i).argmin()), int(np.abs(columns - j).argmin())): mark
        for (i, j), mark in marks.items()
    }
    coloured = console.color_system is not None
    levels = _levels(shown, len(VIRIDIS if coloured else SHADES))
    for i, line in enumerate(levels):
        text = Text()
        for j, level in enumerate(line):
            mark = placed.get((i, j), "")
            if level < 0:
                text.append(f"{mark or MISSING:<2}")
            elif coloured:
                text.append(
                    f"{mark:<2}",
                    f"bold {'#ffffff' if level < 5 else '#000000'} on {VIRIDIS[level]}",
                )
            else:
                text.append(mark + SHADES[level] * (2 - len(mark)))
        console.print(text, soft_wrap=True) if coloured else say(console, text.plain.rstrip())


def colour_blocks(grid: np.ndarray, console: Console) -> None:
    """Print the colours ``grid`` [rows, columns, 3], from 0 to 1: two rows per line of half blocks,
    or characters from light to dark where there are no colours."""
    if console.color_system is None:
        heat_map(grid.mean(axis=2), console=console, most_rows=48, most_columns=IMAGE_COLUMNS)
        return
    names = [
        [f"#{bytes(pixel).hex()}" for pixel in row] for row in (255 * grid).round().astype(np.uint8)
    ]
    for i in range(0, len(names), 2):
        below = names[i + 1] if i + 1 < len(names) else [None] * len(names[i])
        text = Text()
        for one, other in zip(names[i], below, strict=True):
            text.append("▀", f"{one} on {other}" if other else one)
        console.print(text, soft_wrap=True)


def show_images(
    title: str,
    images: np.ndarray,
    captions: Sequence[Sequence[str]],
    rows: int,
    console: Console | None = None,
) -> None:
    """Print as many of ``images`` [N, H, W] as fit on ``rows`` rows, each over the lines of its
    caption."""
    console = console or make_console()
    say(console)
    say(console, title, style="bold")
    side = -(-max(images.shape[1:]) // LARGEST_IMAGE)
    height, width = (-(-size // side) for size in images.shape[1:])
    padded = np.pad(
        images,
        ((0, 0), (0, height * side - images.shape[1]), (0, width * side - images.shape[2])),
        "edge",
    )
    small = padded.reshape(len(images), height, side, width, side).mean(axis=(2, 4))
    across = max(1, min(console.width, IMAGE_COLUMNS) // (2 * (width + 1)))
    for first in range(0, min(len(small), rows * across), across):
        row = small[first : first + across, ..., np.newaxis]
        heat_map(tiles(row, len(row))[..., 0], console=console, most_columns=IMAGE_COLUMNS)
        for line in zip(*captions[first : first + across], strict=True):
            say(
                console,
                "  ".join(set_cell_size(literal(words), 2 * width) for words in line).rstrip(),
            )


def show_health(record: Record, console: Console | None = None) -> None:
    """Print gradient norms, update-to-weight ratios and dead units of a run as sparklines, each
    with its last figure."""
    console = console or make_console()
    wanted = {
        "gradient_norm": "gradient norm",
        "update_ratio": "update / weight",
        "dead": "dead channels",
    }
    for figures, words in wanted.items():
        rows = [
            (name, sparkline(values, 30), f"{values[-1]:.2g}")
            for name, values in record.curves(figures).items()
        ]
        if rows:
            say(console)
            table("", ["", words, "last"], rows, console)


def _levels(values: np.ndarray, count: int) -> np.ndarray:
    """0 to ``count`` − 1 for the lowest to the highest number, −1 for one that is not finite."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.full(values.shape, -1)
    low, high = values[finite].min(), values[finite].max()
    share = (np.where(finite, values, low) - low) / ((high - low) or 1.0)
    return np.where(finite, np.minimum((share * count).astype(int), count - 1), -1)
