"""`Trainer.fit` shows progress: when asked, and by itself where somebody looks."""

import sys

import numpy as np
import pytest

from minicnn import Dense, Flatten, Network, Trainer


def fit(**options):
    x = np.random.default_rng(0).random((30, 3, 3))
    network = Network((3, 3), [Flatten(), Dense(2)])
    return Trainer(network, epochs=2).fit(x, np.arange(30) % 2, **options)


def test_progress_is_what_the_command_line_shows(capsys):
    fit(progress=True)
    out = capsys.readouterr().out
    assert "acc %" in out and "stopped after epoch 2" in out


def test_where_nobody_looks_nothing_is_shown(capsys):
    fit()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_it_by_default(capsys, monkeypatch):
    """And a notebook, see `test_notebook.py`."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit()
    assert "stopped after epoch 2" in capsys.readouterr().out
    fit(progress=False)
    assert capsys.readouterr().out == ""
    fit(reporters=[lambda event: None])  # somebody else shows what happens
    assert capsys.readouterr().out == ""


def test_an_error_takes_the_bar_away(monkeypatch):
    closed = []
    monkeypatch.setattr(
        "minicnn.report.console.ConsoleReporter.close", lambda self: closed.append(self)
    )

    def fail(event):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fit(reporters=[fail], progress=True)
    assert closed
