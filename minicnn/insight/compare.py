"""Finished runs beside each other: their curves, and how soon each reached a given accuracy."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicnn.errors import MinicnnError, UsageError
from minicnn.storage import as_path, check_types, parse_json

_NUMBER, _FIGURE = (int, float), (int, float, type(None))
FIGURES = {  # of an epoch, with their types
    **dict.fromkeys(("epoch", "steps", "seconds"), _NUMBER),
    **dict.fromkeys(("train_loss", "train_accuracy"), _FIGURE),
    **dict.fromkeys(("validation_loss", "validation_accuracy"), _FIGURE),
}
_REPORT: dict[str, Any] = {
    "seconds": _NUMBER,
    **dict.fromkeys(("reason", "explanation"), str),
    "test": (dict, type(None)),
    **dict.fromkeys(("settings", "machine", "versions"), dict),
}


@dataclass(frozen=True)
class RunCurves:
    """What a run folder says about its run: `metrics.jsonl`, `config.toml`, and `report.json` if
    there is one."""

    name: str
    epochs: list[dict[str, Any]]
    settings: dict[str, Any]
    report: dict[str, Any]

    def curve(self, figure: str) -> list[float]:
        """A figure of each epoch, NaN where it is null.

        Besides those of `metrics.jsonl` there are "elapsed", the seconds so far, and "accuracy":
        that of the validation, or of the training where nothing was held out.
        """
        if figure == "elapsed":
            return [
                sum(epoch["seconds"] for epoch in self.epochs[: i + 1])
                for i in range(len(self.epochs))
            ]
        if figure == "accuracy":
            held_out = all(epoch["validation_accuracy"] is not None for epoch in self.epochs)
            figure = "validation_accuracy" if held_out else "train_accuracy"
        return [
            float("nan") if epoch[figure] is None else float(epoch[figure]) for epoch in self.epochs
        ]


@dataclass(frozen=True)
class Row:
    """A run in the table. Accuracies are from 0 to 1: the best of ``curve("accuracy")``, and on the
    test set.

    Steps and seconds are those of the whole run, and those after which an epoch ended at the target
    or above.
    """

    name: str
    optimizer: str
    learning_rate: float | None
    accuracy: float | None
    test_accuracy: float | None
    epochs: int
    steps: int
    steps_to_target: int | None
    seconds: float
    seconds_to_target: float | None
    ended: str


def read_run(folder: str | Path) -> RunCurves:
    """Read a run folder; raises `UsageError` if it is none, and `MinicnnError`, which names the
    file, if one is damaged."""
    folder = as_path("folder", folder)
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UsageError(
            f"{folder} is no run folder: it has no metrics.jsonl, which minicnn train writes"
        )
    try:
        epochs = [parse_json(line) for line in path.read_text("utf-8").splitlines()]
        for epoch in epochs:
            check_types(epoch, **FIGURES)
        path = folder / "config.toml"
        settings = tomllib.loads(path.read_text("utf-8"))
        check_types({"learning_rate": None, **settings}, optimizer=str, learning_rate=_FIGURE)
        path = folder / "report.json"
        report = parse_json(path.read_text("utf-8")) if path.exists() else {}
        if report != {}:
            check_types(report, **_REPORT)
            check_types({"accuracy": None, **(report["test"] or {})}, accuracy=_FIGURE)
            for warning in report.get("warnings", ()):
                check_types(warning, epoch=_NUMBER, text=str)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise MinicnnError(f"{path} cannot be used: {error}") from None
    return RunCurves(str(folder), epochs, settings, report)


def ranking(runs: Sequence[RunCurves], target: float) -> list[Row]:
    """A row per run, the most accurate first: on the test set if all runs were tested, else in the
    best epoch's validation."""
    rows = [_row(run, target) for run in runs]
    tested = all(row.test_accuracy is not None for row in rows)
    return sorted(rows, key=lambda row: -((row.test_accuracy if tested else row.accuracy) or 0.0))


def _row(run: RunCurves, target: float) -> Row:
    accuracies, elapsed, steps = (
        run.curve("accuracy"),
        run.curve("elapsed"),
        [epoch["steps"] for epoch in run.epochs],
    )
    first = next((i for i, accuracy in enumerate(accuracies) if accuracy >= target), None)
    return Row(
        run.name,
        run.settings["optimizer"],
        run.settings.get("learning_rate"),
        max(accuracies, default=None),
        (run.report.get("test") or {}).get("accuracy"),
        len(run.epochs),
        max(steps, default=0),
        None if first is None else steps[first],
        max(elapsed, default=0.0),
        None if first is None else elapsed[first],
        run.report.get("reason", "not ended"),
    )


def differences(runs: Sequence[RunCurves]) -> dict[str, list[str]]:
    """Settings that the runs do not share and without which accuracies are hard to compare, with
    the values there are."""
    values = {
        name: sorted({str(run.settings.get(name)) for run in runs})
        for name in ("data", "limit", "val_split", "seed")
    }
    return {name: found for name, found in values.items() if len(found) > 1}
