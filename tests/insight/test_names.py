"""What `minicnn.insight` offers by name."""

import subprocess
import sys

import pytest

import minicnn.insight


def test_every_name_is_there_and_documented():
    assert minicnn.insight.__all__ == sorted(minicnn.insight.__all__)
    for name in minicnn.insight.__all__:
        assert getattr(minicnn.insight, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'loss_volume'"):
        _ = minicnn.insight.loss_volume


def test_importing_it_loads_nothing_heavy():
    code = "import sys, minicnn.insight; print([name for name in ('numpy', 'numba', 'matplotlib') if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
