"""The verb ``devices``."""

import argparse

from minicnn.cli.common import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json(parser, "the list")


def run(arguments: argparse.Namespace) -> int:
    """Print one row per device."""
    from minicnn.backends import DEVICES, backend, missing

    rows = []
    for device in DEVICES:
        reason = missing(device)
        rows.append(
            {
                "device": device,
                "usable": reason is None,
                "missing": reason,
                **({} if reason else backend(device).describe()),
            }
        )
    if arguments.json:
        print_json({"devices": rows})
        return 0

    from minicnn.report.console import table

    def detail(row: dict[str, object]) -> str:
        about = (
            f"{key} {value}"
            for key, value in row.items()
            if key not in ("device", "usable", "missing")
        )
        return str(row["missing"] or ", ".join(about))

    cells = [(row["device"], "yes" if row["usable"] else "no", detail(row)) for row in rows]
    table("", ("device", "usable", "detail"), cells)
    return 0
