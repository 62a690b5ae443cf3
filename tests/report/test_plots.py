"""What all pictures share."""

import subprocess
import sys

import pytest

from minicnn.errors import MissingExtraError
from minicnn.report import plots


def drawn():
    picture = plots.figure(height=2)
    picture.subplots().plot([0, 1], [1, 0], color=plots.BLUE)
    return picture


def test_a_picture_is_saved_as_png_and_svg(tmp_path):
    files = plots.save(drawn(), tmp_path / "curve.png")
    assert [file.name for file in files] == ["curve.png", "curve.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in files[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_the_same_picture_gives_the_same_bytes():
    assert plots.encoded(drawn(), "svg") == plots.encoded(drawn(), "svg")
    assert plots.encoded(drawn(), "png") == plots.encoded(drawn(), "png")


def test_a_notebook_shows_a_picture_by_itself():
    assert drawn()._repr_png_() == plots.encoded(drawn(), "png")


def test_a_picture_is_as_wide_as_a_readmes_column():
    png = plots.encoded(drawn(), "png")
    assert int.from_bytes(png[16:20], "big") == 800


def test_no_state_of_pyplot_is_touched():
    draw = "from minicnn.report import plots as p; p.encoded(p.figure(), 'png')"
    code = f"import sys; {draw}; print('matplotlib.pyplot' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_without_matplotlib_the_error_says_which_extra_to_install(monkeypatch):
    plots._picture_class.cache_clear()
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'minicnn-numba\[plots\]'"):
        plots.figure()
