"""The verb ``data``."""

import argparse
import sys

from minicnn.cli.common import add_json, print_json
from minicnn.cli.settings import DATA_OPTIONS, Settings, add_data_options, given, load_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(
        title="actions", metavar="list|info|fetch", dest="action", required=True
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
    for action in (every, info, fetch):
        add_json(action, "the result")


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    return {"list": _list, "info": _info, "fetch": _fetch}[arguments.action](arguments)


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


def _fetch(arguments: argparse.Namespace) -> int:
    from minicnn.data.fetch import fetch

    path = fetch(arguments.name, base_url=arguments.base_url, progress=_progress)
    if arguments.json:
        print_json({"name": arguments.name, "path": path})
    else:
        print(path)
    return 0


def _progress(file: str, done: int, total: int) -> None:
    """A line a file on stderr, which counts up on a terminal."""
    text = f"{file}  {done / 1e6:.1f}" + (f" of {total / 1e6:.1f}" if total else "") + " MB"
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:
        print(text, file=sys.stderr)
