"""The results as rich tables, as JSON, and as the README's tables."""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rows import Row, title_of
from targets import verdict
from timing import Spread

_WIDTHS = {64: "AVX-512", 32: "AVX2", 16: "128 bits"}  # by the bytes of a vector
_PASSES, _PROCESSES = ("training", "inference", "second thread"), ("start", "memory")


def _text(value: Spread | None, percent: bool = False) -> str:
    """``5.1 (4.8–5.5)``: median, lowest, highest."""
    if value is None:
        return ""
    if percent:
        return f"{value.median:.0%} ({value.low:.0%}–{value.high:.0%})"
    digits = 1 if value.median >= 10 else 2
    return f"{value.median:.{digits}f} ({value.low:.{digits}f}–{value.high:.{digits}f})"


def show(rows: list[Row], console: Console) -> None:
    """Print one table a group of rows."""
    peers = list(
        dict.fromkeys(name for row in rows if row.group in _PASSES for name in row.faster_than)
    )
    for group in dict.fromkeys(row.group for row in rows):
        chosen = [row for row in rows if row.group == group]
        if group in _PROCESSES:
            table = _table(f"{group}", ["", "measured", "target"])
            for row in chosen:
                table.add_row(row.name, _figures(row), verdict(title_of(row), row))
        elif group == "kernel":
            table = _table(
                "kernels, one thread: speed as a share", ["", "share", "of", "× numpy", "target"]
            )
            for row in chosen:
                table.add_row(
                    row.name,
                    _text(row.share, percent=True),
                    row.share_of or "",
                    _text(row.faster_than.get("numpy")),
                    verdict(title_of(row), row),
                )
        else:
            named = [name for name in peers if any(name in row.faster_than for row in chosen)]
            table = _table(
                f"{group}: how many times faster minicnn is",
                ["", "threads", *named, "best peer", "× floor", "target"],
            )
            for row in chosen:
                medians = [
                    f"{row.faster_than[name].median:.2f}" if name in row.faster_than else ""
                    for name in named
                ]
                best = _text(row.faster_than.get(row.best_peer or ""))
                table.add_row(
                    row.name,
                    str(row.threads),
                    *medians,
                    best,
                    _text(row.over_floor),
                    verdict(title_of(row), row),
                )
        console.print(table)


def _table(title: str, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(
            heading, justify="left" if heading in ("", "of", "target", "measured") else "right"
        )
    return table


def _figures(row: Row) -> str:
    shown = [
        f"{name} {value:+.1%}"
        if name == "growth"
        else f"{name} {value:.3g}"
        if value < 100
        else f"{name} {value:.0f}"
        for name, value in row.figures.items()
    ]
    if row.share is not None:
        shown.append(f"{row.share.median:.2f} of {row.share_of}")
    return ", ".join(shown)


def write(path: Path, about: dict[str, Any], rows: list[Row], failures: dict[str, str]) -> None:
    """Write everything that was found as JSON."""
    found = [asdict(row) | {"target": verdict(title_of(row), row)} for row in rows]
    path.write_text(
        json.dumps({**about, "rows": found, "failures": failures}, indent=1, ensure_ascii=False)
        + "\n",
        encoding="utf-8",
    )


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """(about, rows) of a file that `write` made."""
    about = json.loads(path.read_text(encoding="utf-8"))
    return about, [_row(found) for found in about.pop("rows")]


def _row(found: dict[str, Any]) -> Row:
    values = {field.name: found[field.name] for field in fields(Row)}
    values["faster_than"] = {name: Spread(**ratio) for name, ratio in values["faster_than"].items()}
    for name in ("over_floor", "share"):
        values[name] = Spread(**values[name]) if values[name] else None
    return Row(**values)


def markdown(paths: list[Path]) -> str:
    """The README's tables from files that `write` made, side by side: one a vector width, say."""
    read_all = [read(path) for path in paths]
    abouts = [about for about, _ in read_all]
    machine, versions = abouts[0]["machine"], abouts[0]["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; {named}. Median of the ratios of "
        f"{abouts[0]['settings']['repetitions']} repetitions, in brackets the lowest and the highest.",
        "",
    ]
    columns = [f"{_WIDTHS[about['machine']['vector_bytes']]}: " for about in abouts]
    found = [{(row.group, row.name, row.threads): row for row in rows} for _, rows in read_all]
    keys = list(dict.fromkeys(key for rows in found for key in rows))
    for groups, heading in (
        (_PASSES[:2], "times faster than the best peer | times the floor"),
        (_PASSES[2:], "times one thread"),
        (("kernel",), "share of the speed of"),
        (_PROCESSES, "measured"),
    ):
        cells = [
            [f"{group} {name}", str(threads)]
            + [_cells(rows.get((group, name, threads)), heading.count("|")) for rows in found]
            for group, name, threads in keys
            if group in groups
        ]
        headings = [column + part.strip() for column in columns for part in heading.split("|")]
        lines += _lines(["", "threads", *headings], cells)
    return "\n".join(lines)


def _cells(row: Row | None, more: int) -> str:
    """What one file says of a row: a cell, and for passes beside peers ``more``, the floor."""
    if row is None:
        return " | " * more
    if row.group == "kernel":
        return f"{_text(row.share, percent=True)} {row.share_of}"
    if row.group in _PROCESSES:
        return _figures(row)
    best = _text(row.faster_than.get(row.best_peer or ""))
    return f"{best} {row.best_peer} | {_text(row.over_floor)}" if more else best


def _lines(headings: list[str], cells: Iterable[list[str]]) -> list[str]:
    found = [f"| {' | '.join(row)} |" for row in cells]
    if not found:
        return []
    return [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", *found, ""]
