"""The verb ``import``."""

import argparse

from minicnn.cli import common
from minicnn.cli.settings import Settings, add_option
from minicnn.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file",
        metavar="FILE",
        type=common.path,
        help="ONNX file, or safetensors file of a PyTorch state_dict, for the network of --model",
    )
    for name, text in (
        ("model", "network that a state_dict is for: a preset such as lenet5, or a file"),
        ("data", f"data set that this network is for (default: {Settings.data})"),
    ):
        add_option(parser, name, help=text)
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
        text = f"what is {what}: one number or one per channel (default: {value:g})"
        parser.add_argument(option, type=float, nargs="+", default=value, metavar="X", help=text)
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="names of the classes (default: 0, 1, ...)"
    )
    common.add_json(parser, "the network and its sizes")


def run(arguments: argparse.Namespace) -> int:
    """Read the network and write the model."""
    said = arguments.mean, arguments.std
    if arguments.file.suffix == ".safetensors":
        if arguments.model is None:
            raise UsageError(f"{arguments.file} holds weights alone: say of which network, --model")

        from minicnn.data import load_dataset
        from minicnn.formats.state_dict import from_state_dict

        dataset = load_dataset(arguments.data or Settings.data)
        classes = arguments.classes or dataset.classes
        network = common.build_network(arguments.model, dataset.image_shape, len(classes))
        model = from_state_dict(arguments.file, network, classes, *said)
    elif arguments.model is not None or arguments.data is not None:
        raise UsageError(
            "--model and --data are for a safetensors file: an ONNX file includes both"
        )
    else:
        from minicnn.formats.onnx_in import from_onnx

        model = from_onnx(arguments.file, *said, arguments.classes)
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
        from minicnn.data.labels import listing

        print(
            f"{arguments.output}: {len(network.layers)} layers, {network.parameter_count:,} parameters, "
            f"classes {listing(model.classes)}"
        )
    return 0
