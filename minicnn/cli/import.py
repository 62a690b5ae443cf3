"""The verb ``import``."""

import argparse

from minicnn.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="NET.onnx", type=common.path, help="ONNX file to read")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=common.path,
        default=common.path("model.safetensors"),
        help="model file to write (default: model.safetensors)",
    )
    for option, value, what in (
        ("--mean", 0.0, "subtracted from images, which are from 0 to 1"),
        ("--std", 1.0, "by which they are then divided"),
    ):
        text = f"what is {what}: one number or one a channel (default: {value:g})"
        parser.add_argument(option, type=float, nargs="+", default=value, metavar="X", help=text)
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="names of the classes (default: 0, 1, ...)"
    )
    common.add_json(parser, "the network and its sizes")


def run(arguments: argparse.Namespace) -> int:
    """Read the network and write the model."""
    from minicnn.formats.onnx_in import from_onnx

    model = from_onnx(arguments.file, arguments.mean, arguments.std, arguments.classes)
    model.save(arguments.output)
    network = model.network
    sizes = {
        "output": arguments.output,
        "layers": len(network.layers),
        "parameters": network.parameter_count,
        "input_shape": network.input_shape,
        "classes": len(model.classes),
    }
    if arguments.json:
        common.print_json(sizes)
    else:
        print(
            f"{arguments.output}: {len(network.layers)} layers, {network.parameter_count:,} parameters"
        )
    return 0
