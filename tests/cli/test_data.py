"""`data`: what there is, what it holds, downloads."""

import functools
import hashlib
import http.server
import json
import threading
from dataclasses import replace

import pytest

from minicnn.data.known import KNOWN
from tests.data.idx_files import write_idx_folder


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def mirror(place, monkeypatch):
    """The address of a server of small files in the place of MNIST's, with their check sums
    known."""
    folder = write_idx_folder(place / "mirror" / "mnist", suffix=".gz")
    files = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
    }
    monkeypatch.setitem(KNOWN, "mnist", replace(KNOWN["mnist"], files=files))
    monkeypatch.setenv("MINICNN_CACHE", str(place / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(Handler, directory=str(place / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_list_says_which_sets_are_here(minicnn):
    result = minicnn("data", "list")
    assert result.status == 0
    for name in KNOWN:
        assert name in result.out
    shown = json.loads(minicnn("data", "list", "--json").out)["datasets"]
    assert [entry["name"] for entry in shown] == list(KNOWN)
    assert next(entry["state"] for entry in shown) == "embedded"


def test_info_says_what_a_set_holds(minicnn):
    result = minicnn("data", "info", "fashion-mnist-12k")
    assert result.status == 0
    for words in ("28×28×1", "uint8", "MIT", "Ankle boot", "10,000", "2,000"):
        assert words in result.out
    shown = json.loads(minicnn("data", "info", "tiny.npz", "--json").out)
    assert shown["images"] == {"training": 60, "test": 30} and shown["classes"] == [
        "ant",
        "bee",
        "cat",
    ]


def test_info_counts_the_images_of_every_class(minicnn):
    shown = json.loads(minicnn("data", "info", "fashion-mnist-12k", "--json").out)
    assert shown["images"] == {"training": 10_000, "test": 2_000}
    assert shown["per_class"]["test"] == [200, 203, 214, 190, 219, 195, 197, 200, 194, 188]
    assert "Zalando" in shown["licence"]
    assert (shown["image_shape"], shown["dtype"], shown["maximum"]) == ([28, 28, 1], "uint8", 255.0)


def test_info_of_an_unknown_set_lists_the_near_ones(minicnn):
    result = minicnn("data", "info", "mnst")
    assert result.status == 2 and "'mnist'" in result.error


def test_fetch_downloads_from_a_mirror_and_prints_where_to(place, mirror, minicnn):
    result = minicnn("data", "fetch", "mnist", "--base-url", mirror)
    assert (result.status, result.out) == (0, f"{place / 'cache' / 'datasets' / 'mnist'}\n")
    assert "\r" not in result.err
    assert [line.split()[0] for line in result.err.splitlines()] == sorted(KNOWN["mnist"].files)
    again = minicnn("data", "fetch", "mnist", "--json")
    assert again.err == "" and json.loads(again.out)["name"] == "mnist"
    assert minicnn("data", "info", "mnist").status == 0


def test_a_download_that_fails_is_status_1_and_leaves_the_cache_as_it_was(place, mirror, minicnn):
    (place / "mirror" / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    result = minicnn("data", "fetch", "mnist", "--base-url", mirror)
    assert result.status == 1 and "check sum" in result.err.splitlines()[-1]
    assert not (place / "cache" / "datasets" / "mnist").exists()


@pytest.mark.parametrize("name", ["mnst", "fashion-mnist-12k"])
def test_only_published_sets_can_be_fetched(name, minicnn):
    assert minicnn("data", "fetch", name).status == 2


def test_show_draws_the_views_that_training_sees(minicnn, place):
    options = ("tiny.npz", "--augment", "flip", "crop=2", "border=edge", "--images", "3")
    first, again = minicnn("data", "show", *options), minicnn("data", "show", *options)
    assert first.status == 0 and first.out == again.out and len(first.out.splitlines()) > 5
    assert minicnn("data", "show", *options, "--epoch", "2").out != first.out
    result = minicnn("data", "show", *options, "--output", "views")
    assert result.status == 0 and "batch.png" in result.out
    assert (place / "views" / "batch.png").read_bytes()[:4] == b"\x89PNG"
    wrong = minicnn("data", "show", "tiny.npz", "--augment", "crop=-1")
    assert wrong.status == 2 and "crop must be a whole number from 0 on" in wrong.err


def test_blocks_have_the_colours_of_two_pixels_each():
    import io

    import numpy as np
    from rich.console import Console

    from minicnn.report.terminal import colour_blocks

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=40)
    colour_blocks(np.array([[[1.0, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]]), console)
    top, bottom = out.getvalue().splitlines()
    assert "38;2;255;0;0" in top and "48;2;0;255;0" in top and "▀" in top
    assert "38;2;0;0;255" in bottom and "48" not in bottom


def test_a_run_keeps_its_augmentation_and_normalization_in_its_files(minicnn, place):
    run = ("train", "--data", "tiny.npz", "--model", "mlp", "--epochs", "1", "--output", "run")
    how = ("--normalize", "--augment", "flip=alternating", "crop=2", "scale=0.1")
    result = minicnn(*run, *how)
    assert result.status == 0, result.err
    import minicnn as package
    from minicnn.training.settings import read_settings

    settings = read_settings(place / "run" / "config.toml")
    assert settings.augment == {"flip": "alternating", "crop": 2, "scale": 0.1}
    assert settings.normalize and package.load(place / "run").normalization is not None
    assert minicnn("evaluate", "run", "--data", "tiny.npz").status == 0
    wrong = minicnn(*run, "--augment", "crops=2")
    assert wrong.status == 2 and "did you mean 'crop'?" in wrong.err
