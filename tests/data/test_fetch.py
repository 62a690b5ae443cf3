"""Downloads, from a mirror on the loopback."""

import functools
import hashlib
import http.server
import os
import sys
import threading
from dataclasses import replace

import pytest

from minicnn.data import load_dataset
from minicnn.data.fetch import fetch
from minicnn.data.known import KNOWN, cache_folder
from minicnn.errors import DataError, MissingExtraError, UnknownNameError
from tests.data.idx_files import write_idx_folder


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server of small files in the place of MNIST's, with their check sums known."""
    folder = write_idx_folder(tmp_path / "mirror" / "mnist", suffix=".gz")
    files = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
    }
    assert files.keys() == KNOWN["mnist"].files.keys()
    monkeypatch.setitem(KNOWN, "mnist", replace(KNOWN["mnist"], files=files))
    monkeypatch.setenv("MINICNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MINICNN_MIRROR", raising=False)
    handler = functools.partial(Handler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        server.folder = folder
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def refusal(*arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        fetch(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_nothing_is_left(tmp_path):
    assert [
        path for path in (tmp_path / "cache").rglob("*") if path != tmp_path / "cache" / "datasets"
    ] == []


def test_a_set_is_downloaded_into_the_cache_and_found_there(mirror, tmp_path):
    folder = fetch("mnist", base_url=mirror.url)
    assert folder == cache_folder("mnist") == tmp_path / "cache" / "datasets" / "mnist"
    assert sorted(os.listdir(folder)) == sorted(KNOWN["mnist"].files)
    assert os.listdir(folder.parent) == ["mnist"]
    assert len(load_dataset("mnist").train) == 20


def test_the_mirror_may_come_from_the_environment(mirror, monkeypatch):
    monkeypatch.setenv("MINICNN_MIRROR", mirror.url + "/")
    fetch("mnist")
    assert mirror.asked[0] == "/mnist/t10k-images-idx3-ubyte.gz"


def test_without_a_mirror_the_published_address_is_used(mirror, monkeypatch):
    monkeypatch.setitem(KNOWN, "mnist", replace(KNOWN["mnist"], address=f"{mirror.url}/mnist/"))
    assert fetch("mnist").is_dir()


def test_what_is_there_and_sound_is_not_downloaded_again(mirror):
    fetch("mnist", base_url=mirror.url)
    asked = len(mirror.asked)
    assert asked == 4
    fetch("mnist", base_url=mirror.url)
    assert len(mirror.asked) == asked


def test_a_damaged_copy_is_replaced(mirror):
    folder = fetch("mnist", base_url=mirror.url)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    fetch("mnist", base_url=mirror.url)
    assert len(load_dataset("mnist").test) == 10


def test_the_progress_of_each_file_ends_at_its_size(mirror):
    seen = {}
    fetch(
        "mnist",
        base_url=mirror.url,
        progress=lambda file, done, total: seen.update({file: (done, total)}),
    )
    sizes = {path.name: path.stat().st_size for path in mirror.folder.iterdir()}
    assert seen == {name: (size, size) for name, size in sizes.items()}


def test_a_wrong_check_sum_names_the_file_and_leaves_nothing(mirror, tmp_path):
    (mirror.folder / "train-labels-idx1-ubyte.gz").write_bytes(b"something else")
    text = refusal("mnist", base_url=mirror.url)
    assert f"{mirror.url}/mnist/train-labels-idx1-ubyte.gz does not have the check sum" in text
    assert_nothing_is_left(tmp_path)


def test_a_missing_file_names_its_address_and_leaves_nothing(mirror, tmp_path):
    (mirror.folder / "train-labels-idx1-ubyte.gz").unlink()
    text = refusal("mnist", base_url=mirror.url)
    assert "cannot download" in text and "train-labels-idx1-ubyte.gz" in text and "404" in text
    assert_nothing_is_left(tmp_path)


def test_a_server_that_cannot_be_reached_is_a_clear_error(mirror, tmp_path):
    assert "cannot download http://127.0.0.1:1/mnist/" in refusal(
        "mnist", base_url="http://127.0.0.1:1"
    )
    assert "cannot download nonsense/mnist/" in refusal("mnist", base_url="nonsense")
    assert_nothing_is_left(tmp_path)


def test_a_failure_leaves_the_copy_that_was_there(mirror):
    folder = fetch("mnist", base_url=mirror.url)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    refusal("mnist", base_url="http://127.0.0.1:1")
    assert len(os.listdir(folder)) == 4
    assert os.listdir(folder.parent) == ["mnist"]


def test_a_cache_that_cannot_be_written_is_named(mirror, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINICNN_CACHE", str(tmp_path / "file"))
    assert (
        f"cannot write to the cache {tmp_path / 'file' / 'datasets'}: Not a directory"
        in refusal("mnist", base_url=mirror.url)
    )
    assert mirror.asked == []


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(mirror, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.core.shutil.move", full)
    assert "No space left on device" in refusal("mnist", base_url=mirror.url)
    assert_nothing_is_left(tmp_path)


def test_without_pooch_the_extra_is_named(mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"downloading data sets needs pooch: .*\[data\]"):
        fetch("mnist", base_url=mirror.url)


def test_an_unknown_name_and_the_embedded_set_are_usage_errors():
    with pytest.raises(UnknownNameError, match="did you mean 'mnist'"):
        fetch("mnst")
    with pytest.raises(UnknownNameError, match="comes with minicnn"):
        fetch("fashion-mnist-12k")
