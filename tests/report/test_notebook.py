"""Training in a notebook, which a kernel runs from its first cell to its last."""

import re
from dataclasses import replace

import nbformat
import pytest
from nbclient import NotebookClient

from minicnn.report.notebook import NotebookReporter, curves
from minicnn.training.events import BatchDone, EpochDone

SETUP = """
import numpy as np
from minicnn import Dense, Flatten, Network, Trainer
x = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
y = (x.mean(axis=(1, 2)) > 127).astype(int)
network = Network((4, 4), [Flatten(), Dense(2)])
"""
CELLS = [
    SETUP + "network",
    "trainer = Trainer(network, epochs=3)\ntrainer.fit(x, y, test=(x, y), classes=['<b>', 'c'])",
    "trainer.model",
    "trainer.fit(x, y, progress=False)",
    "trainer.fit(x, y, reporters=[lambda event: None])",
]
# filters of the suite that turn the warnings of other people's packages into errors
pytestmark = pytest.mark.filterwarnings("ignore")


def executed(cells, path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    return client.execute(cwd=str(path)), client


def shown(cell):
    """The HTML of a cell's outputs."""
    return [output.data["text/html"] for output in cell.outputs if "data" in output]


def test_restart_and_run_all(tmp_path):
    for _ in range(2):
        notebook, _ = executed(CELLS, tmp_path)
        network, fit, model, quiet, reported = map(shown, notebook.cells)
        assert "<table>" in network[0] and "Dense(units=2)" in network[0]
        progress, history = fit
        rows = re.findall(r"<tr><td>(\d+)</td>", progress)
        assert rows == ["1", "2", "3"]
        assert progress.count("<polyline") == 2 and "stopped after epoch 3" in progress
        assert "test      loss" in progress and "epochs done" in history
        assert "<td>accuracy</td>" in model[0] and "&lt;b&gt;, c" in model[0]
        assert len(quiet) == len(reported) == 1  # the history alone
        texts = [out for cell in notebook.cells for out in cell.outputs if "text" in out]
        assert texts == []


def test_an_interrupt_of_the_kernel_keeps_the_weights(tmp_path):
    train = """
import os, signal
batches = []
def interrupt(event):
    if type(event).__name__ == "BatchDone":
        batches.append(event)
        if len(batches) == 3:
            os.kill(os.getpid(), signal.SIGINT)
trainer = Trainer(network, epochs=10_000, batch_size=8, callbacks=[interrupt])
history = trainer.fit(x, y)
print(history.ended.reason, len(batches))
"""
    after = """
first = network.initialize(np.random.default_rng([0, 0]))
print((trainer.model.params != first).any(), (trainer.progress.params != first).any())
again = Trainer(trainer.model, epochs=2).fit(x, y)
print(again.ended.reason)
"""

    notebook, _ = executed([SETUP, train, after], tmp_path)
    said = ["".join(o.text for o in cell.outputs if "text" in o) for cell in notebook.cells]
    assert said[1:] == ["interrupted 3\n", "True True\nepochs done\n"]


def test_a_second_interrupt_stops_at_once(tmp_path):
    train = """
import os, signal
def twice(event):
    if type(event).__name__ == "BatchDone":
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
try:
    Trainer(network, epochs=50, callbacks=[twice]).fit(x, y)
except KeyboardInterrupt:
    print("stopped")
"""
    notebook, _ = executed([SETUP, train], tmp_path)
    assert "stopped\n" in [o.text for o in notebook.cells[1].outputs if "text" in o]


def test_curves_of_losses():
    done = EpochDone(1, 2.0, 0.5, None, None, 0.1, 1.0, 1.0, True, 10)
    assert curves([done]) == ""
    two = [done, replace(done, epoch=2, train_loss=1.0)]
    svg = curves(two)
    assert svg.count("<polyline") == 1 and 'points="48.0,24.0 432.0,136.0"' in svg
    both = curves([replace(one, validation_loss=3.0) for one in two])
    assert both.count("<polyline") == 2 and ">3<" in both and ">1<" in both


def test_a_run_under_way_shows_loss_accuracy_speed_and_both_times_left(monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    reporter = NotebookReporter()
    reporter(BatchDone(2, 1200, 0.4321, 0.8512, 76_800, 14_321.0, 6.0, 83.0))
    wanted = "epoch 2, batch 1,200: loss 0.432, acc 85.1 %, 14,321 img/s, 0:06/1:23 left"
    assert wanted in reporter._repr_html_() and wanted in repr(reporter)
