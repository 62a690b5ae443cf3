"""The verb ``predict``."""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.cli.common import add_json, add_number, print_json
from minicnn.cli.settings import Settings, add_option
from minicnn.errors import DataError
from minicnn.training.settings import COUNT

if TYPE_CHECKING:
    import numpy as np

    from minicnn.inference import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="model file, or run folder")
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="image, folder of images, NPY, NPZ or IDX file"
    )
    parser.add_argument(
        "--resize", action="store_true", help="bring images to the size that the model wants"
    )
    add_option(parser, "grayscale", default=False)
    add_option(parser, "rgb", default=False)
    text = "classes to print for an image, the most probable first"
    add_number(parser, "--top", COUNT, 3, text)
    add_option(parser, "data_gb", default=Settings.data_gb)
    add_option(parser, "device", default=Settings.device)
    add_option(parser, "threads")
    add_json(parser, "names, labels and the probabilities of all classes")


def run(arguments: argparse.Namespace) -> int:
    """Predict, then print an image a row."""
    import numpy as np

    from minicnn.inference import load

    model = load(arguments.model, arguments.threads, arguments.device)
    names, arrays = _read(arguments, model)
    begun = time.perf_counter()
    has_values = model.task == "regression"
    answer = model.logits if has_values else model.predict_proba
    answer(arrays[0][:1])
    compiled = time.perf_counter()
    answers = np.concatenate([answer(images) for images in arrays])
    speed, rows = len(names) / (time.perf_counter() - compiled), answers.tolist()
    if arguments.json:
        print_json(
            {
                "predictions": [
                    _values(name, row, model.classes)
                    if has_values
                    else _prediction(name, row, model.classes)
                    for name, row in zip(names, rows, strict=True)
                ],
                "images_per_second": speed,
            }
        )
    elif has_values:
        from minicnn.report.console import table

        cells = [
            (name, *(f"{value:.6g}" for value in row))
            for name, row in zip(names, rows, strict=True)
        ]
        table("", ("image", *model.classes), cells)
    else:
        from minicnn.report.console import predictions_table

        predictions_table(names, rows, model.classes, runners_up=arguments.top - 1)
    print(
        f"{len(names):,} images, {speed:,.0f} images/s, {compiled - begun:.1f} s compiling",
        file=sys.stderr,
    )
    return 0


def _values(name: str, row: list[float], outputs: tuple[str, ...]) -> dict[str, Any]:
    return {"name": name, "values": dict(zip(outputs, row, strict=True))}


def _prediction(name: str, row: list[float], classes: tuple[str, ...]) -> dict[str, Any]:
    index = row.index(max(row))
    return {
        "name": name,
        "label": classes[index],
        "index": index,
        "probability": row[index],
        "probabilities": dict(zip(classes, row, strict=True)),
    }


def _read(arguments: argparse.Namespace, model: "Model") -> "tuple[list[str], list[np.ndarray]]":
    """Names and images of all inputs; what has the same dtype and comes together is one array."""
    import numpy as np

    from minicnn.data.images import list_images

    names, arrays = [], []
    for path in map(Path, arguments.inputs):
        for file in list_images(path)[0] if path.is_dir() else [path]:
            found, images = _read_file(file, model, arguments)
            names += found
            arrays.append(images)
    groups = (list(group) for _, group in itertools.groupby(arrays, lambda images: images.dtype))
    return names, [group[0] if len(group) == 1 else np.concatenate(group) for group in groups]


def _read_file(
    path: Path, model: "Model", arguments: argparse.Namespace
) -> "tuple[list[str], np.ndarray]":
    """Names and images of one file, which the model is known to take."""
    from minicnn.data.inputs import load_inputs
    from minicnn.data.reading import ReadOptions
    from minicnn.network.checks import times

    height, width, channels = wanted = model.network.input_shape
    names, images = load_inputs(
        path,
        ReadOptions(
            data_gb=arguments.data_gb,
            resize=(height, width) if arguments.resize else None,
            grayscale=arguments.grayscale,
            rgb=arguments.rgb,
        ),
        model.maximum if model.image_dtype == "float32" else 1.0,
    )
    if images.shape[1:] != wanted:
        options = ["--resize"] * (images.shape[1:3] != wanted[:2]) + ["--grayscale"] * (
            images.shape[3] > channels == 1
        )
        options += ["--rgb"] * (images.shape[3] == 1 and channels == 3)
        hint = f"; {' and '.join(options)} would convert them" if options else ""
        raise DataError(
            f"{path} holds images of {times(images.shape[1:])} (height × width × channels), but the model wants "
            f"{times(wanted)}{hint}"
        )
    try:
        model.check_images(images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return names, images
