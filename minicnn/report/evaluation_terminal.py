"""Images side by side as characters, for the terminal: mistakes and filters."""

from collections.abc import Sequence

import numpy as np
from rich.cells import set_cell_size
from rich.console import Console

from minicnn.insight.mistakes import tiles
from minicnn.report.console import literal, make_console, say
from minicnn.report.terminal import heat_map

COLUMNS = 78  # to draw in; a cell of an image is two columns wide
LARGEST = 14  # rows and columns of an image; what is larger is shown as means over squares


def show_images(title: str, images: np.ndarray, captions: Sequence[Sequence[str]], rows: int,
                console: Console | None = None) -> None:  # fmt: skip
    """Print as many of ``images`` [N, H, W] as fit on ``rows`` rows, each over the lines of its caption."""
    console = console or make_console()
    say(console)
    say(console, title, style="bold")
    side = -(-max(images.shape[1:]) // LARGEST)
    height, width = (-(-size // side) for size in images.shape[1:])
    padded = np.pad(images, ((0, 0), (0, height * side - images.shape[1]), (0, width * side - images.shape[2])), "edge")
    small = padded.reshape(len(images), height, side, width, side).mean(axis=(2, 4))
    across = max(1, min(console.width, COLUMNS) // (2 * (width + 1)))
    for first in range(0, min(len(small), rows * across), across):
        grid = tiles(small[first : first + across, ..., np.newaxis], across)[..., 0]
        heat_map(grid, console=console, most_columns=COLUMNS)
        for line in zip(*captions[first : first + across], strict=True):
            say(console, "  ".join(set_cell_size(literal(words), 2 * width) for words in line).rstrip())
