"""check every kernel of a device against the CPU, train with it, time it, and write a report to
send back"""

import argparse
import sys
from pathlib import Path

from minicnn.cli.common import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|cuda", help="what to check (default: cpu)"
    )
    parser.add_argument(
        "--model", default="lenet5", metavar="NAME", help="preset to train (default: lenet5)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=10_000,
        metavar="N",
        help="train on N images of the embedded data (default: 10000; 0: do not train)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="report (default: minicnn-selftest-DEVICE.json)"
    )
    add_json(parser, "the report")


def run(arguments: argparse.Namespace) -> int:
    """Run all checks, print them, and write the report; exit status 1 if one failed."""
    from minicnn.report.jsonl import write_json
    from minicnn.testing.selftest import environment, selftest

    about, checks = environment(arguments.device), []
    for check in selftest(arguments.device, arguments.model, arguments.images):
        checks.append(check)
        print(f"{check.result:8}{check.name}: {check.detail}", file=sys.stderr)
    count = {
        result: sum(check.result == result for check in checks)
        for result in ("passed", "skipped", "failed")
    }
    report = {"environment": about, **count, "checks": checks}
    path = arguments.output or Path(f"minicnn-selftest-{arguments.device}.json")
    write_json(path, report)
    if arguments.json:
        print_json(report)
    else:
        figures = ", ".join(f"{number} {result}" for result, number in count.items())
        print(f"device {arguments.device}: {figures}; the report is in {path}")
    return 1 if count["failed"] else 0
