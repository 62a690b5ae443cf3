"""The style of all pictures. Needs the extra ``plots`` (matplotlib),
imported when used.

Colours that the colour-blind can tell apart: Okabe and Ito's for lines and marks, cividis and
viridis for surfaces, red and blue for weights of either sign. Text is shown as it is: no dollar
sign begins a formula, and what the font lacks is an empty box.
"""

import functools
import io
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.errors import MissingExtraError
from minicnn.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
# Okabe and Ito (2008), in the order of use
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, YELLOW)
MARKERS = "os^Dv"
SURFACE = "viridis"  # colour map of a loss
MATRIX = "cividis"  # colour map of a matrix of counts
WEIGHTS = "RdBu"  # colour map of weights: 0 is white
# Inches; at 100 dots an inch, the width of a README's column, where 10 points stay legible.
WIDTH = 8.0
STEEP = 20.0  # highest over lowest loss, from which on a logarithmic scale is needed to see the low


def available() -> bool:
    """Whether pictures can be drawn: the extra is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def figure(title: str = "", height: float = 5.0) -> "Figure":
    """An empty figure with a title, ``height`` in inches; a notebook shows it inline. Raises
    `MissingExtraError` without matplotlib."""
    drawn: Figure = _picture_class()(figsize=(WIDTH, height), dpi=100, layout="constrained")
    if title:
        drawn.suptitle(title)
    return drawn


def shown(text: str, width: int = 40) -> str:
    """``text`` from a user, fit for a picture: at most ``width`` characters on one line,
    unprintable ones as escapes."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return textwrap.shorten(printable, width, placeholder="…") if printable.strip() else printable


def is_steep(values: np.ndarray) -> bool:
    """Whether values are so far apart that they should be shown on a logarithmic scale."""
    low, high = np.nanmin(values), np.nanmax(values)
    return bool(0 < low < high / STEEP)


def logarithmic(axes: Any, label: str, name: str = "y") -> None:
    """Make the axis ``name``, x or y, logarithmic, and say so."""
    from matplotlib.ticker import LogLocator

    limits, axis = axes.dataLim, getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log"})
    near = getattr(limits, f"{name}1") < 1000 * getattr(limits, f"minpos{name}")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter("")
    axis.set_label_text(f"{label},{' ' if name == 'x' else chr(10)}logarithmic")


def whole_epochs(axes: Any) -> None:
    """Have ticks of the x axis at whole epochs alone."""
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def encoded(drawn: "Figure", kind: str) -> bytes:
    """``drawn`` as a file of ``kind``, png or svg; the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.text import Text

    content = io.BytesIO()
    style: Any = {"svg.hashsalt": "minicnn", "text.parse_math": False}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for text in drawn.findobj(Text):
            text.set_parse_math(False)
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
