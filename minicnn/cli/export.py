"""The verb ``export``."""

import argparse

from minicnn.cli import common
from minicnn.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common.add_model(parser)
    parser.add_argument("out", metavar="OUT", type=common.path, help="file, or folder, to write")
    parser.add_argument(
        "--format",
        choices=("onnx", "numpy", "c"),
        default="onnx",
        help="onnx: an ONNX file; numpy: a folder with weights and a Python file of NumPy alone; "
        "c: one C99 file "
        "(default: onnx)",
    )
    parser.add_argument(
        "--layout",
        choices=("nchw", "nhwc"),
        help="order of the images that go in (default: nchw for onnx, nhwc for others)",
    )
    common.add_flag(
        parser,
        "--preprocess",
        "take images as they are stored, such as uint8, and scale them inside",
    )
    common.add_flag(parser, "--softmax", "give probabilities instead of logits")
    common.add_flag(
        parser,
        "--training",
        "keep batch normalization instead of folding it into the weights before it",
    )
    common.add_json(parser, "what was written and its size")


def run(arguments: argparse.Namespace) -> int:
    """Write the model."""
    from minicnn.model_file import load
    from minicnn.storage import write_atomically

    model, out, form = load(arguments.model), arguments.out, arguments.format
    options = {name: getattr(arguments, name) for name in ("preprocess", "softmax")}
    if form != "onnx" and (arguments.layout == "nchw" or arguments.training):
        option = "--training" if arguments.training else "--layout nchw"
        raise UsageError(f"{option} is for --format onnx")
    if form == "onnx":
        made = model.to_onnx(
            layout=arguments.layout or "nchw", training=arguments.training, **options
        )
        content = made.SerializeToString()
        write_atomically(out, content)
        size = len(content)
    elif form == "c":
        from minicnn.formats.c_out import write_c

        size = write_c(model, out, **options)
    else:
        from minicnn.formats.numpy_out import write_numpy

        size = write_numpy(model, out, **options)
    written = {"output": out, "format": form, "bytes": size}
    if arguments.json:
        common.print_json(written)
    else:
        print(f"{out}: {form}, {size:,} bytes")
    return 0
