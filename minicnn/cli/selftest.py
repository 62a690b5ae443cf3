"""The verb ``selftest``."""

import argparse
import sys
from pathlib import Path

from minicnn.cli.common import add_json, add_number, add_output, print_json
from minicnn.cli.settings import add_option
from minicnn.kinds import INDEX


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_option(parser, "device", default="cpu", help="what to check (default: cpu)")
    parser.add_argument(
        "--model", default="lenet5", metavar="NAME", help="preset to train (default: lenet5)"
    )
    text = "train on N images of the embedded data, or not at all"
    add_number(parser, "--images", INDEX, 10_000, text)
    add_output(parser, "report (default: minicnn-selftest-DEVICE.json)", "FILE")
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
    file = arguments.output or Path(f"minicnn-selftest-{arguments.device}.json")
    write_json(file, report)
    if arguments.json:
        print_json(report)
    else:
        figures = ", ".join(f"{number} {result}" for result, number in count.items())
        print(f"device {arguments.device}: {figures}; the report is in {file}")
    return 1 if count["failed"] else 0
