"""The verb ``predict``."""

import argparse
import functools
import itertools
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicnn.cli.common import (
    add_flag,
    add_json,
    add_model,
    add_number,
    add_output,
    add_profile,
    add_tta,
    show_profile,
    tell,
)
from minicnn.cli.settings import Settings, add_option
from minicnn.errors import DataError, UsageError
from minicnn.kinds import COUNT

if TYPE_CHECKING:
    import numpy as np

    from minicnn.inference import Model

Batch = tuple[list[str], list[list[float]]]  # names of images, and the outputs of each
_PAIR = ("label", "probability")
_VALUES = 2**22  # numbers in the images that are read and answered together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="image, folder of images, NPY, NPZ or IDX file, or - for one on standard input",
    )
    add_flag(parser, "--resize", "bring images to the size that the model wants")
    add_option(parser, "grayscale", default=False)
    add_option(parser, "rgb", default=False)
    text = "classes to print for an image, the most probable first"
    add_number(parser, "--top", COUNT, 3, text)
    add_tta(parser)
    add_profile(parser, "print no predictions, but, layer by layer, where their time")
    add_option(parser, "data_gb", default=Settings.data_gb)
    add_option(parser, "device", default=Settings.device)
    add_option(parser, "threads")
    parser.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        help="table (default), CSV, or JSON lines, printed while images are read",
    )
    add_output(parser, "write to this file, .csv or .jsonl, whole or not at all", "FILE")
    add_json(parser, "names, labels and the probabilities of all classes")


def run(arguments: argparse.Namespace) -> int:
    """Predict, and print or write one row per image as the images are read."""
    from minicnn.model_file import load

    form = _format(arguments)
    model = load(arguments.model, arguments.threads, arguments.device)
    done = _Done()
    if arguments.profile:
        images = next(_batches(arguments, model, done))[1]
        show_profile(model.profile(images), arguments.json)
        return 0
    batches = _answers(arguments, model, done)
    if form == "table":
        _print_tables(batches, model, arguments.top)
    else:
        texts = _texts(form, batches, model, arguments.top, done)
        if arguments.output is None:
            for text in texts:
                sys.stdout.write(text)
        else:
            from minicnn.storage import write_atomically

            write_atomically(arguments.output, (text.encode() for text in texts))
    if done.resized:
        height, width, _ = model.network.input_shape
        tell(f"{done.resized:,} images were resized to {height}×{width}, bilinear")
    print(
        f"{done.images:,} images, {done.speed:,.0f} images/s, {done.compiling:.1f} s compiling",
        file=sys.stderr,
    )
    return 0


@dataclass
class _Done:
    """Counts and times so far."""

    images: int = 0
    resized: int = 0
    seconds: float = 0.0
    compiling: float = 0.0

    @property
    def speed(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


def _format(arguments: argparse.Namespace) -> str:
    """The output format that the options choose: table, csv, jsonl or json."""
    output, chosen = arguments.output, "json" if arguments.json else arguments.format
    if arguments.json and arguments.format:
        raise UsageError("--json and --format exclude each other")
    if output is None or chosen not in (None, "table"):
        return chosen or "table"
    suffix = output.suffix.lower().removeprefix(".")
    if chosen is None and suffix in ("csv", "jsonl"):
        return suffix
    raise UsageError(f"--output {output}: name it .csv or .jsonl, or say --format csv or jsonl")


def _answers(arguments: argparse.Namespace, model: "Model", done: _Done) -> Iterator[Batch]:
    """Names and rows of outputs, some images at a time."""
    of_images = model.logits if model.task == "regression" else model.predict_proba
    answer = functools.partial(of_images, tta=arguments.tta)
    for names, images in _batches(arguments, model, done):
        begun = time.perf_counter()
        if not done.images:
            answer(images[:1])
            done.compiling = time.perf_counter() - begun
            begun = time.perf_counter()
        rows = answer(images).tolist()
        done.seconds += time.perf_counter() - begun
        done.images += len(names)
        yield names, rows


def _print_tables(batches: Iterable[Batch], model: "Model", top: int) -> None:
    from minicnn.report.console import table
    from minicnn.report.tables import predictions_table

    for i, (names, rows) in enumerate(batches):
        if model.task == "regression":
            cells = [
                (name, *(f"{value:.6g}" for value in row))
                for name, row in zip(names, rows, strict=True)
            ]
            table("", ("image", *model.classes), cells)
        else:
            predictions_table(names, rows, model.classes, top - 1, has_header=i == 0)


def _texts(
    form: str, batches: Iterable[Batch], model: "Model", top: int, done: _Done
) -> Iterator[str]:
    """The text of all predictions in that format, in pieces."""
    from minicnn.report.jsonl import json_ready
    from minicnn.report.tables import most_probable
    from minicnn.storage import csv_text

    classes, has_values = model.classes, model.task == "regression"
    top = len(classes) if form == "json" else min(top, len(classes))
    separator = '{"predictions": ['
    if form == "csv":
        best = ["label", "probability", *(f"{n}_{k}" for k in range(2, top + 1) for n in _PAIR)]
        yield csv_text([["image", *(classes if has_values else best)]])
    for names, rows in batches:
        if form == "csv":
            yield csv_text(
                [
                    name,
                    *(row if has_values else itertools.chain(*most_probable(row, classes, top))),
                ]
                for name, row in zip(names, rows, strict=True)
            )
            continue
        for name, row in zip(names, rows, strict=True):
            made = (
                {"name": name, "values": dict(zip(classes, row, strict=True))}
                if has_values
                else _prediction(name, row, classes, None if form == "json" else top)
            )
            text = json.dumps(json_ready(made), allow_nan=False)
            yield f"{text}\n" if form == "jsonl" else separator + text
            separator = ", "
    if form == "json":
        yield f'], "images_per_second": {done.speed}}}\n'


def _prediction(
    name: str, row: list[float], classes: tuple[str, ...], top: int | None
) -> dict[str, Any]:
    """One prediction as JSON has it, with the ``top`` most probable classes (None: all, in their
    order)."""
    from minicnn.report.tables import most_probable

    index = row.index(max(row))
    pairs = zip(classes, row, strict=True) if top is None else most_probable(row, classes, top)
    return {
        "name": name,
        "label": classes[index],
        "index": index,
        "probability": row[index],
        "probabilities": dict(pairs),
    }


@contextmanager
def _standard_input() -> Iterator[Path]:
    """The content of standard input as a file."""
    if sys.stdin is None:  # closed, as by <&-
        raise UsageError("the input - is standard input, which is closed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "standard input")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def _files(inputs: list[str]) -> Iterator[tuple[Path, str]]:
    """Each file, and the part of its path that is not shown."""
    from minicnn.data.images import list_images

    for path in map(Path, inputs):
        if str(path) == "-":
            with _standard_input() as file:
                yield file, f"{file.parent}/"
        else:
            for file in list_images(path)[0] if path.is_dir() else [path]:
                yield file, ""


def _batches(
    arguments: argparse.Namespace, model: "Model", done: _Done
) -> "Iterator[tuple[list[str], np.ndarray]]":
    """Names and images of all inputs, of one dtype and no more than `_VALUES` numbers at a time."""
    import numpy as np

    most = max(1, _VALUES // math.prod(model.network.input_shape))
    names: list[str] = []
    parts: list[np.ndarray] = []
    for path, hidden in _files(arguments.inputs):
        try:
            found, images = _read_file(path, model, arguments, done)
        except DataError as error:
            raise DataError(str(error).replace(hidden, "")) from None
        for first in range(0, len(images), most):
            part = images[first : first + most]
            if parts and (part.dtype != parts[0].dtype or len(names) + len(part) > most):
                yield names, np.concatenate(parts)
                names, parts = [], []
            names += [name.removeprefix(hidden) for name in found[first : first + most]]
            parts.append(part)
    yield names, np.concatenate(parts)


def _read_file(
    path: Path, model: "Model", arguments: argparse.Namespace, done: _Done
) -> "tuple[list[str], np.ndarray]":
    """Names and images of one file, checked against the model."""
    from minicnn.data.images import convert_images
    from minicnn.data.inputs import load_inputs
    from minicnn.data.reading import ReadOptions
    from minicnn.network.checks import times

    height, width, channels = wanted = model.network.input_shape
    options = ReadOptions(
        data_gb=arguments.data_gb,
        resize=(height, width) if arguments.resize else None,
        grayscale=arguments.grayscale,
        rgb=arguments.rgb,
    )
    brightest = model.maximum if model.image_dtype == "float32" else 1.0
    names, images = load_inputs(path, replace(options, resize=None), brightest)
    if arguments.resize and images.shape[1:3] != (height, width):
        images = convert_images(images, options)
        done.resized += len(images)
    if images.shape[1:] != wanted:
        flags = ["--resize"] * (images.shape[1:3] != wanted[:2]) + ["--grayscale"] * (
            images.shape[3] > channels == 1
        )
        flags += ["--rgb"] * (images.shape[3] == 1 and channels == 3)
        hint = f"; {' and '.join(flags)} would convert them" if flags else ""
        raise DataError(
            f"{path} holds images of {times(images.shape[1:])} (height × width × channels), but the model wants "
            f"{times(wanted)}{hint}"
        )
    try:
        model.check_images(images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return names, images
