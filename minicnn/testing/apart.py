"""The conformance kit in a process of its own: a crash of that process is the result of one check.

``python -m minicnn.testing.apart`` reads from stdin which rule is meant and how many of its checks
are done, and prints a line for each of the others when it begins and when it ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from minicnn import plugins, testing
from minicnn.errors import MinicnnError
from minicnn.testing.checks import Check, Checks, run_checks


def check_apart(kind: str, name: str, files: Sequence[str | Path]) -> list[Check]:
    """The checks of a rule that can be found by its name, with the ``files`` of plugins.

    Raises `MinicnnError` if the process ends before the first of them.
    """
    found: list[Check] = []
    while True:
        request = json.dumps([kind, name, list(map(str, files)), len(found)])
        command = [sys.executable, "-m", "minicnn.testing.apart"]
        ended = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True)
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        found += [Check(**line) for line in lines if isinstance(line, dict)]
        if not ended.returncode:
            return found
        if not lines or isinstance(lines[-1], dict):
            raise MinicnnError(f"the checks of {kind} {name} could not be run")
        how = signal.Signals(-ended.returncode).name if ended.returncode < 0 else ended.returncode
        reason = f"the process died ({how}): does the rule read or write outside its arrays?"
        found.append(Check(lines[-1], "failed", reason))


def main() -> None:
    """Answer the request on stdin."""
    kind, name, files, done = json.load(sys.stdin)
    plugins.use_files(files)
    checks: Checks = getattr(testing, f"checks_of_{kind}")(plugins.find(kind, name))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    left = dict(list(checks.items())[done:])
    with contextlib.redirect_stdout(sys.stderr):
        results = run_checks(left)
        for check_name in left:
            print(json.dumps(check_name), file=answers)
            print(json.dumps(asdict(next(results))), file=answers)


if __name__ == "__main__":
    main()
