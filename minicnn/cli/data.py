"""The verb ``data``."""

import argparse
import sys

from minicnn.cli.common import (
    add_json,
    add_number,
    add_output,
    print_json,
    write_results,
)
from minicnn.cli.settings import (
    DATA_OPTIONS,
    Settings,
    add_data_options,
    add_option,
    given,
    load_data,
)
from minicnn.kinds import COUNT
from minicnn.training.settings import make_augment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(
        title="actions", metavar="list|info|show|fetch", dest="action", required=True
    )
    every = actions.add_parser(
        "list", help="the data sets that have a name, and which of them are here"
    )
    info = actions.add_parser("info", help="what a data set holds")
    info.add_argument("name", metavar="NAME|PATH", help="name of a data set, or its file or folder")
    add_data_options(info)
    fetch = actions.add_parser(
        "fetch", help="download a data set into the cache, check sum by check sum"
    )
    fetch.add_argument("name", metavar="NAME", help="name of a data set")
    fetch.add_argument(
        "--base-url", metavar="URL", help="a mirror that holds NAME/FILE (default: the publisher)"
    )
    show = actions.add_parser("show", help="a batch of training images as a network sees it")
    show.add_argument("name", metavar="NAME|PATH", help="name of a data set, or its file or folder")
    add_data_options(show)
    add_option(show, "augment")
    add_option(show, "seed")
    add_number(show, "--epoch", COUNT, 1, "of this epoch")
    add_number(show, "--images", COUNT, 16, "so many")
    add_output(show, "write the picture batch.png there, with the extra plots")
    for action in (every, info, fetch):
        add_json(action, "the result")


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    return {"list": _list, "info": _info, "show": _show, "fetch": _fetch}[arguments.action](
        arguments
    )


def _list(arguments: argparse.Namespace) -> int:
    from minicnn.data.catalog import list_datasets
    from minicnn.report.console import table

    states = list_datasets()
    if arguments.json:
        print_json({"datasets": states})
    else:
        table("", tuple(states[0]), [tuple(state.values()) for state in states])
    return 0


def _info(arguments: argparse.Namespace) -> int:
    import numpy as np

    from minicnn.data.catalog import locate
    from minicnn.data.known import KNOWN
    from minicnn.report.console import make_console, say, table

    dataset = load_data(Settings(data=arguments.name, **given(arguments, DATA_OPTIONS)))
    name, classes, splits = dataset.name, dataset.classes, dataset.splits
    about = {
        "name": name,
        "path": str(locate(name)),
        "licence": KNOWN[name].licence if name in KNOWN else "unknown",
    }
    dtype = str(dataset.train.images.dtype)
    images = {kind: len(split) for kind, split in splits.items()}
    per_class = {
        kind: np.bincount(split.labels, minlength=len(classes)).tolist()
        for kind, split in splits.items()
    }
    if arguments.json:
        print_json(
            {
                **about,
                "image_shape": dataset.image_shape,
                "dtype": dtype,
                "maximum": dataset.maximum,
                "classes": classes,
                "images": images,
                "per_class": per_class,
            }
        )
        return 0
    console = make_console()
    height, width, channels = dataset.image_shape
    about["images"] = (
        f"{height}×{width}×{channels} (height × width × channels), {dtype}, 0 to {dataset.maximum:g}"
    )
    for label, text in about.items():
        say(console, f"{label:<9} {text}")
    say(console)
    rows = [(name, *(counts[i] for counts in per_class.values())) for i, name in enumerate(classes)]
    table("", ("class", *images), [*rows, ("total", *images.values())], console)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import numpy as np

    from minicnn.backends.cpu import show
    from minicnn.insight.mistakes import tiles
    from minicnn.report import plots
    from minicnn.report.console import make_console
    from minicnn.report.terminal import colour_blocks

    names = (*DATA_OPTIONS, "augment", "seed")
    settings = Settings(data=arguments.name, **given(arguments, names))
    dataset, augment = load_data(settings), make_augment(settings.augment)
    images, (low, high) = dataset.train.images, dataset.seen or (0.0, dataset.maximum)
    chosen = np.random.default_rng(settings.seed).permutation(len(images))[: arguments.images]
    middle = 0.0 if dataset.seen else None
    views = augment.draw(settings.seed, arguments.epoch, images, None, dataset.maximum, middle)
    shown = np.clip((show(images, chosen, 1.0, views) - low) / (high - low), 0, 1)
    if shown.shape[3] != 3:
        shown = shown.mean(axis=3, keepdims=True).repeat(3, axis=3)
    if arguments.output is None:
        console = make_console()
        across = max(1, min(8, (console.width + 1) // (shown.shape[2] + 1)))
        colour_blocks(tiles(shown, across, 1.0), console)
        return 0

    def draw() -> "plots.Figure":
        drawn = plots.figure()
        axes = drawn.subplots()
        axes.imshow(tiles(shown, 8, 1.0))
        axes.set(xticks=[], yticks=[], title=f"{dataset.name}, epoch {arguments.epoch}: {augment}")
        return drawn

    for file in write_results(arguments.output, {}, {"batch": draw}):
        print(file)
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from minicnn.data.fetch import fetch

    path = fetch(arguments.name, base_url=arguments.base_url, progress=_progress)
    if arguments.json:
        print_json({"name": arguments.name, "path": path})
    else:
        print(path)
    return 0


def _progress(file: str, done: int, total: int) -> None:
    """One progress line per file on stderr, updated in place on a terminal."""
    text = f"{file}  {done / 1e6:.1f}" + (f" of {total / 1e6:.1f}" if total else "") + " MB"
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:
        print(text, file=sys.stderr)
