"""summarize a network: layer, output shape, parameters, multiply-adds, bytes"""

import argparse
from typing import TYPE_CHECKING

from minicnn.cli.common import add_json, at_least_one, build_network, print_json
from minicnn.errors import UsageError
from minicnn.training.settings import Settings

if TYPE_CHECKING:
    from minicnn.network.network import Network

_WIDTH_WITH_DESCRIPTION = 120  # columns; narrower terminals are left to the figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("trained", metavar="MODEL", nargs="?", help="model file, or run folder (default: see --model)")
    parser.add_argument("--model", metavar="NAME|FILE.toml", help=f"network (default: {Settings.model})")
    parser.add_argument("--data", metavar="NAME|PATH",
                        help=f"data set that it is to fit (default: {Settings.data})")  # fmt: skip
    parser.add_argument("--input-shape", type=_shape, metavar="H,W,C", help="image shape in place of --data")
    parser.add_argument("--classes", type=at_least_one, metavar="N", help="number of classes in place of --data")
    add_json(parser, "the table")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from minicnn.network.summary import summary_total

    network = _network(arguments)
    rows = network.summary_rows()
    total = summary_total(network, rows)
    if arguments.json:
        print_json({"network": network.name, "input_shape": network.input_shape, "layers": rows, "total": total})
        return 0

    from minicnn.report.console import make_console, table

    console = make_console()
    columns = ["layer", "output shape", "parameters", "multiply-adds", "bytes", "activation bytes", "description"]
    cells = [[row.name, _times(row.output_shape), row.parameters, row.multiply_adds, row.parameter_bytes,
              row.activation_bytes, row.layer] for row in [*rows, total]]  # fmt: skip
    shown = len(columns) if console.width >= _WIDTH_WITH_DESCRIPTION else len(columns) - 1
    title = f"{network.name} on images of {_times(network.input_shape)} (multiply-adds and activations: of one image)"
    table(title, columns[:shown], [row[:shown] for row in cells], console)
    return 0


def _network(arguments: argparse.Namespace) -> "Network":
    others = [f"--{name.replace('_', '-')}" for name in ("model", "data", "input_shape", "classes")
              if getattr(arguments, name) is not None]  # fmt: skip
    if arguments.trained is not None:
        if others:
            raise UsageError(f"MODEL says all by itself: leave out {', '.join(others)}")

        from minicnn.inference import load

        return load(arguments.trained).network
    name = arguments.model or Settings.model
    if (arguments.input_shape is None) != (arguments.classes is None):
        raise UsageError("--input-shape and --classes stand in for --data together")
    if arguments.input_shape is not None:
        if arguments.data is not None:
            raise UsageError("--data says what --input-shape and --classes say: leave one out")
        return build_network(name, arguments.input_shape, arguments.classes)

    from minicnn.data import load_dataset

    dataset = load_dataset(arguments.data or Settings.data)
    return build_network(name, dataset.image_shape, len(dataset.classes))


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(at_least_one(size) for size in text.replace("x", ",").split(","))
    if len(sizes) not in (2, 3):
        raise argparse.ArgumentTypeError(f"must be height,width or height,width,channels, not {text!r}")
    return sizes


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
