"""The verb ``evaluate``."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from minicnn.cli import common
from minicnn.cli.settings import (
    DATA_OPTIONS,
    Settings,
    add_data_options,
    add_option,
    given,
    read_options,
)
from minicnn.errors import ModelFileError, PluginError, SettingError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from minicnn.data import Dataset, Split
    from minicnn.inference import Model
    from minicnn.insight.mistakes import Mistake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_and_data(parser)
    add_option(parser, "device", default=Settings.device)
    common.add_tta(parser)
    common.add_flag(
        parser,
        "--report",
        "also show the most confident mistakes and the filters of the first layer, and write "
        "evaluation.csv and, with the extra plots, pictures and one page, report.html",
    )
    common.add_output(parser, "where --report writes (default: beside the model)")
    common.add_json(parser, "the figures")


def add_model_and_data(parser: argparse.ArgumentParser) -> None:
    """Add what `model_and_data` reads: a model, labelled images, plugins and threads."""
    common.add_model(parser)
    add_option(parser, "data", help="data set with a test split (default: the model's)")
    add_data_options(parser)
    common.add_plugins(parser)
    add_option(parser, "threads")


def model_and_data(
    arguments: argparse.Namespace, device: str = "cpu"
) -> "tuple[Model, Dataset, Split]":
    """(model, data set that fits it, its test split); the data set is the one the model was trained
    on unless ``--data`` names another. If the loss of a model is no longer installed, the loss is
    left out, with a warning.
    """
    from minicnn.data.catalog import load_judged
    from minicnn.data.labels import Classes
    from minicnn.model_file import load
    from minicnn.training.inputs import fingerprint

    common.use_plugins(arguments)
    model = load(arguments.model, arguments.threads, device)
    data = arguments.data or model.training.get("data")
    if data is None:
        raise UsageError(
            f"{arguments.model} does not say what data it was trained on: name some with --data"
        )
    trained = model.training.get("settings", {})
    try:
        stored = Settings(
            **{name: trained[name] for name in ("seed", *DATA_OPTIONS) if name in trained}
        )
    except SettingError as error:
        raise ModelFileError(f"{arguments.model} does not hold usable settings: {error}") from None
    how = replace(stored, **given(arguments, DATA_OPTIONS))
    own = model.training.get("data") in (data, str(Path(data).resolve()))
    dataset = load_judged(
        data,
        Classes(model.classes, model.labels, model.task),
        model.seen,
        **read_options(how),
        whole=not own,
    )
    model = replace(model, labels=None)  # the data's labels are the numbers of its classes
    made_of, found = model.training.get("fingerprint"), fingerprint(dataset.train)
    if own and made_of not in (None, found):
        common.warn(
            f"the training images of {data} are not those that the model was trained on (check sum {found}, then "
            f"{made_of}): it may have seen some of the test images"
        )
    if "loss" in model.training:
        try:
            model.trained_loss()
        except (UnknownNameError, PluginError) as error:
            common.warn(f"the loss is left out: {error}")
            model = replace(model, training={})
        else:
            common.warn_of_plugins()
    assert dataset.test is not None
    return model, dataset, dataset.test


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    if arguments.output and not arguments.report:
        raise UsageError("--output says where --report writes: give both")
    model, dataset, test = model_and_data(arguments, arguments.device)
    if arguments.report and model.task != "classification":
        raise UsageError("--report shows classes, and this model has none")
    evaluation = model.evaluate(
        test.images, test.labels, maximum=dataset.maximum, tta=arguments.tta
    )
    found: list[Mistake] = []
    files: list[str] = []
    if arguments.report:
        from minicnn.cli.report import write_page

        place, output = common.folders(arguments.model, arguments.output)
        found, files = write_page(model, dataset, evaluation, place, output, arguments.tta)
    if arguments.json:
        more = {"mistakes": found, "files": files} if arguments.report else {}
        common.print_json({**common.plain(evaluation), **more})
        return 0

    from minicnn.report.console import make_console, say
    from minicnn.report.tables import evaluation_table

    evaluation_table(evaluation)
    if arguments.report:
        _show(model, test.images, found)
        console = make_console()
        say(console)
        say(console, f"files     {output}: {', '.join(files)}")
    return 0


def _show(model: "Model", images: "np.ndarray", found: "list[Mistake]") -> None:
    from minicnn.insight.mistakes import first_layer_filters
    from minicnn.report.terminal import show_images

    if found:
        captions = [
            (
                f"{model.classes[mistake.predicted]} {100 * mistake.probability:.1f} %",
                f"not {model.classes[mistake.label]} (#{mistake.index})",
            )
            for mistake in found
        ]
        wrong = images[[mistake.index for mistake in found]].mean(axis=3)
        show_images("the most confident mistakes", wrong, captions, rows=2)
    filters = first_layer_filters(model)
    if filters is not None:
        name, weights = filters
        title = f"{name}, each filter and channel as a picture, from {weights.min():.3g} to {weights.max():.3g}"
        channels = weights.transpose(0, 3, 1, 2).reshape(-1, *weights.shape[1:3])
        show_images(title, channels, [()] * len(channels), rows=max(1, 16 // weights.shape[1]))
