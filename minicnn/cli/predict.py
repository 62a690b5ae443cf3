"""predict the classes of images: PNG and JPEG files, folders of them, NPY, NPZ and IDX files"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minicnn.cli.common import add_device, add_json, add_threads, at_least_one
from minicnn.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from minicnn.inference import Model

_BLOCK = 1024  # images that are predicted before the first of them is printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="model file, or run folder")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="image, folder of images, NPY, NPZ or IDX file")
    parser.add_argument("--resize", action="store_true", help="bring images to the size that the model wants")
    parser.add_argument("--grayscale", action="store_true", help="turn colours to grey")
    parser.add_argument("--top", type=at_least_one, default=3, metavar="K",
                        help="classes to print for an image, the most probable first (default: 3)")  # fmt: skip
    add_device(parser)
    add_threads(parser)
    add_json(parser, "names, labels and the probabilities of all classes")


def run(arguments: argparse.Namespace) -> int:
    """Predict and print an image a row, in blocks."""
    from minicnn.inference import load

    model = load(arguments.model, arguments.threads, arguments.device)
    names, arrays = _read(arguments, model)
    predictor = _Predictor(model, arrays)
    if arguments.json:
        _print_json(names, predictor, model.classes)
    else:
        from minicnn.report.console import predictions_table

        predictions_table(names, predictor, model.classes, runners_up=arguments.top - 1)
    print(f"{len(names):,} images, {predictor.images_per_second:,.0f} images/s, "
          f"{predictor.compile_seconds:.1f} s compiling", file=sys.stderr)  # fmt: skip
    return 0


def _read(arguments: argparse.Namespace, model: "Model") -> "tuple[list[str], list[np.ndarray]]":
    """Names and images of all inputs; what has the same dtype and comes together is one array."""
    import numpy as np

    from minicnn.data.images import list_images

    names, arrays = [], []
    for path in map(Path, arguments.inputs):
        for file in list_images(path) if path.is_dir() else [path]:
            found, images = _read_file(file, model, arguments.resize, arguments.grayscale)
            names += found
            arrays.append(images)
    groups = (list(group) for _, group in itertools.groupby(arrays, lambda images: images.dtype))
    return names, [group[0] if len(group) == 1 else np.concatenate(group) for group in groups]


def _read_file(path: Path, model: "Model", resize: bool, grayscale: bool) -> "tuple[list[str], np.ndarray]":
    """Names and images of one file, which the model is known to take."""
    from minicnn.data.inputs import load_inputs

    height, width, channels = wanted = model.network.input_shape
    names, images = load_inputs(path, (height, width) if resize else None, grayscale)
    if images.shape[1:] != wanted:
        options = ["--resize"] * (images.shape[1:3] != wanted[:2]) + ["--grayscale"] * (images.shape[3] > channels == 1)
        hint = f"; {' and '.join(options)} would convert them" if options else ""
        raise DataError(f"{path} holds images of {_size(images.shape[1:])}, but the model wants {_size(wanted)}{hint}")
    try:
        model.check_images(images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return names, images


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) + " (height × width × channels)"


class _Predictor:
    """Rows of probabilities, block by block, with the time that they took."""

    def __init__(self, model: "Model", arrays: "list[np.ndarray]"):
        self._model, self._arrays = model, arrays
        self._seconds = 0.0
        start = time.perf_counter()
        model.predict_proba(arrays[0][:1])
        self.compile_seconds = time.perf_counter() - start

    def __iter__(self) -> Iterator[list[float]]:
        for images in self._arrays:
            for first in range(0, len(images), _BLOCK):
                start = time.perf_counter()
                rows = self._model.predict_proba(images[first : first + _BLOCK])
                self._seconds += time.perf_counter() - start
                yield from rows.tolist()

    @property
    def images_per_second(self) -> float:
        """Of those that were predicted, compile time left out."""
        return sum(map(len, self._arrays)) / self._seconds


def _print_json(names: list[str], predictor: _Predictor, classes: tuple[str, ...]) -> None:
    """One object, written as it comes: there may be many images."""
    print('{"predictions": [')
    for number, (name, row) in enumerate(zip(names, predictor, strict=True), 1):
        index = row.index(max(row))
        prediction = {"name": name, "label": classes[index], "index": index, "probability": row[index],
                      "probabilities": dict(zip(classes, row, strict=True))}  # fmt: skip
        print(json.dumps(prediction), end=",\n" if number < len(names) else "\n")
    print(f'], "images_per_second": {predictor.images_per_second}}}')
