"""`python -m minicnn` with the arguments given, saying when its first batch was done and how much
memory it took.

Its last line on stdout is JSON: ``first_batch``, a time as of `time.time`, and ``peak_megabytes``.
"""

import json
import runpy
import sys
import time
from collections.abc import Iterator
from typing import Any

from peak_memory import peak_megabytes

from minicnn.training import trainer
from minicnn.training.events import BatchDone

first_batch: list[float] = []
_run = trainer.Trainer.run


def _watched(self: trainer.Trainer, *arguments: Any, **options: Any) -> Iterator[Any]:
    for event in _run(self, *arguments, **options):
        if isinstance(event, BatchDone) and not first_batch:
            first_batch.append(time.time())
        yield event


trainer.Trainer.run = _watched
sys.path[0] = ""  # as for python -m
status = 0
try:
    runpy.run_module("minicnn", run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else int(end.code is not None)
if status == 0:
    print("\n" + json.dumps({"first_batch": first_batch[0], "peak_megabytes": peak_megabytes()}))
sys.exit(status)
