"""The verb ``export``."""

import argparse

from minicnn.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="model file, or run folder")
    parser.add_argument("out", metavar="OUT", type=common.path, help="file to write")
    parser.add_argument(
        "--layout",
        choices=("nchw", "nhwc"),
        default="nchw",
        help="order of the images that go in (default: nchw)",
    )
    parser.add_argument(
        "--preprocess",
        action="store_true",
        help="take images as they are stored, such as uint8, and scale them inside",
    )
    parser.add_argument(
        "--softmax", action="store_true", help="give probabilities instead of logits"
    )
    parser.add_argument(
        "--training",
        action="store_true",
        help="keep batch normalization instead of folding it into the weights before it",
    )
    common.add_json(parser, "what was written and its size")


def run(arguments: argparse.Namespace) -> int:
    """Write the model."""
    from minicnn.inference import load
    from minicnn.storage import write_atomically

    model = load(arguments.model)
    options = {name: getattr(arguments, name) for name in ("preprocess", "softmax")}
    made = model.to_onnx(layout=arguments.layout, training=arguments.training, **options)
    content = made.SerializeToString()
    write_atomically(arguments.out, content)
    written = {"output": arguments.out, "format": "onnx", "bytes": len(content)}
    if arguments.json:
        common.print_json(written)
    else:
        print(f"{arguments.out}: onnx, {len(content):,} bytes")
    return 0
