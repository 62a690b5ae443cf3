"""The verb ``summary``."""

import argparse
from typing import TYPE_CHECKING, Any

from minicnn.cli.common import add_json, add_trained, build_network, check_trained, print_json
from minicnn.cli.settings import Settings, add_option
from minicnn.errors import UsageError

if TYPE_CHECKING:
    from minicnn.network.network import Network

_WIDTH_WITH_DESCRIPTION = 120  # columns; narrower terminals are left to the figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_trained(parser)
    add_option(parser, "model")
    add_option(parser, "data", help=f"data set that it is to fit (default: {Settings.data})")
    add_option(parser, "freeze", help="count as trained what train with this option would train")
    add_json(parser, "the table")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from minicnn.network.checks import times
    from minicnn.network.summary import summary_rows

    network = _network(arguments)
    if arguments.freeze:
        network = network.freeze(arguments.freeze)
    *layers, total = rows = summary_rows(network)
    if arguments.json:
        print_json(
            {
                "network": network.name,
                "input_shape": network.input_shape,
                "layers": layers,
                "total": total,
                "trained": network.trained_count,
            }
        )
        return 0

    from minicnn.report.console import make_console, say, table

    console = make_console()
    columns: dict[str, list[Any]] = {
        "layer": [row.name for row in rows],
        "reads": [", ".join(row.reads) for row in rows],
        "output shape": [times(row.output_shape) for row in rows],
        "parameters": [row.parameters for row in rows],
        "state": [row.state for row in rows],
        "multiply-adds": [row.multiply_adds for row in rows],
        "bytes": [row.parameter_bytes for row in rows],
        "activation bytes": [row.activation_bytes for row in rows],
        "description": [row.layer for row in rows],
    }
    shown = {
        column: cells
        for column, cells in columns.items()
        if column not in ("reads", "state") or any(cells)
    }
    if console.width < _WIDTH_WITH_DESCRIPTION:
        del shown["description"]
    title = f"{network.name} on images of {times(network.input_shape)} (multiply-adds and activations: of one image)"
    table(title, list(shown), list(zip(*shown.values(), strict=True)), console)
    if network.frozen:
        say(
            console, f"{network.trained_count:,} of the {total.parameters:,} parameters are trained"
        )
    return 0


def _network(arguments: argparse.Namespace) -> "Network":
    if arguments.trained is not None:
        if arguments.model is not None or arguments.data is not None:
            raise UsageError("MODEL includes both: leave out --model and --data")
        check_trained(arguments.trained)

        from minicnn.model_file import load

        return load(arguments.trained).network

    from minicnn.data import load_dataset

    dataset = load_dataset(arguments.data or Settings.data)
    return build_network(
        arguments.model or Settings.model, dataset.image_shape, len(dataset.classes)
    )
