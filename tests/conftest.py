"""Distributions that are installed for one test."""

import sys
import textwrap

import pytest

from minicnn import plugins


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution that offers entry points, each standing for one module with the given source."""
    monkeypatch.delenv("MINICNN_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def install(distribution, entry_points, source, version="1.2.3", metadata=""):
        module = distribution.replace("-", "_")
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        folder = tmp_path / f"{module}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{metadata}")
        lines = "".join(f"{name} = {module}\n" for name in entry_points)
        (folder / "entry_points.txt").write_text(f"[minicnn]\n{lines}")
        return module

    install.folder = tmp_path
    yield install
    plugins.use_files([])
    for module in modules:
        sys.modules.pop(module, None)
