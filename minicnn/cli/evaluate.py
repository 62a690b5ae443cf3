"""evaluate a model on labelled images: loss, accuracy, precision and recall, confusion matrix, images a second"""

import argparse
from dataclasses import replace

from minicnn.cli.common import add_device, add_json, add_plugins, plain, print_json, use_plugins, warn, warn_of_plugins
from minicnn.errors import DataError, PluginError, UnknownNameError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="model file, or run folder")
    parser.add_argument("--data", metavar="NAME|PATH", help="data set with a test split (default: the model's)")
    parser.add_argument("--data-max", type=float, metavar="X",
                        help="image value that is scaled to 1 (default: as in training)")  # fmt: skip
    add_plugins(parser)
    add_device(parser)
    add_json(parser, "the figures")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    from minicnn.data import load_dataset
    from minicnn.inference import load

    use_plugins(arguments)
    model = load(arguments.model, arguments.threads, arguments.device)
    data = arguments.data or model.training.get("data")
    if data is None:
        raise UsageError(f"{arguments.model} does not say what data it was trained on: name some with --data")
    trained = model.training.get("settings", {})
    maximum = trained.get("data_max") if arguments.data_max is None else arguments.data_max
    dataset = load_dataset(data, maximum=maximum, seed=trained.get("seed", 0))
    if dataset.test is None:
        raise DataError(f"{data} has no test split to evaluate on")
    if len(dataset.classes) != len(model.classes):
        raise DataError(f"{data} has {len(dataset.classes)} classes, but the model knows {len(model.classes)}")
    if dataset.classes != model.classes:
        warn(f"the classes of {data} have other names ({', '.join(dataset.classes)}) than the model's")
    if "loss" in model.training:
        try:
            model.trained_loss()
        except (UnknownNameError, PluginError) as error:
            warn(f"the loss is left out: {error}")
            model = replace(model, training={})
        else:
            warn_of_plugins()
    evaluation = model.evaluate(dataset.test.images, dataset.test.labels, maximum=dataset.maximum)
    if arguments.json:
        print_json(plain(evaluation))
        return 0

    from minicnn.report.console import evaluation_table

    evaluation_table(evaluation)
    return 0
