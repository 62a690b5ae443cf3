"""Pictures: the one place that knows how they look. Needs the extra ``plots`` (matplotlib),
imported when used.

Colours that the colour-blind can tell apart: Okabe and Ito's for lines and marks, cividis and
viridis for surfaces.
"""

import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.errors import MissingExtraError
from minicnn.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
COLOURS = (
    BLUE,
    ORANGE,
    GREEN,
    VERMILION,
    PURPLE,
    SKY,
    BLACK,
    YELLOW,
)  # Okabe and Ito (2008), in the order of use
SURFACE = "viridis"  # colour map of a loss
MATRIX = "cividis"  # colour map of a matrix of counts or of filters
WIDTH = (
    8.0  # inches; at 100 dots an inch, the width of a README's column, where 10 points stay legible
)


def available() -> bool:
    """Whether pictures can be drawn: the extra is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def figure(height: float = 5.0, width: float = WIDTH) -> "Figure":
    """An empty figure, sizes in inches; a notebook shows it inline. Raises `MissingExtraError`
    without matplotlib."""
    return _picture_class()(figsize=(width, height), dpi=100, layout="constrained")


def encoded(drawn: "Figure", kind: str) -> bytes:
    """``drawn`` as a file of ``kind``, png or svg; the same figure gives the same bytes."""
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minicnn"}):
        drawn.savefig(
            content, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None}
        )
    return content.getvalue()


def save(drawn: "Figure", path: Path) -> list[Path]:
    """Write ``drawn`` beside ``path`` as PNG and as SVG, whatever its suffix; return the two
    files."""
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for file in files:
        write_atomically(file, encoded(drawn, file.suffix[1:]))
    return files


@functools.cache
def _picture_class() -> Any:
    """matplotlib's Figure, which a notebook shows without pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing pictures", "matplotlib", "plots") from None

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return encoded(self, "png")

    return Picture
