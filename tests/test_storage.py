"""Files are whole or not there; a file that is damaged, cut off, foreign or of another kind is one
clear error."""

import csv
import errno
import json
import os
import stat
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.numpy

from minicnn.errors import MinicnnError, ModelFileError
from minicnn.storage import (
    _check_sum,
    read_tensors,
    remove_leftovers,
    write_atomically,
    write_csv,
    write_tensors,
)

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(1.5),
    "empty": np.zeros((0, 4), np.float32),
}
METADATA = {"name": "größer", "numbers": [1, 2.5, None], "nested": {"x": True}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "thing.safetensors"
    write_tensors(path, "model", TENSORS, METADATA)
    return path


def assert_one_clear_line(caught, path):
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_and_metadata_come_back_as_they_were(file):
    tensors, metadata = read_tensors(file, "model")
    assert metadata == METADATA and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        np.testing.assert_array_equal(tensors[name], tensor)


def test_the_file_is_plain_safetensors(file):
    np.testing.assert_array_equal(safetensors.numpy.load_file(file)["b"], TENSORS["b"])


def test_tensors_that_are_not_contiguous_are_written_as_they_look(tmp_path):
    write_tensors(
        tmp_path / "t", "model", {"turned": TENSORS["b"].T, "every second": np.arange(9)[::2]}, {}
    )
    tensors, _ = read_tensors(tmp_path / "t", "model")
    np.testing.assert_array_equal(tensors["turned"], TENSORS["b"].T)
    np.testing.assert_array_equal(tensors["every second"], [0, 2, 4, 6, 8])


def test_a_new_file_has_the_permissions_that_any_new_file_has(file, tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


# --- files that cannot be read --------------------------------------------------------------------


def test_a_file_cut_off_anywhere_is_named(file):
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(ModelFileError) as caught:
            read_tensors(file, "model")
        assert_one_clear_line(caught, file)


def test_a_file_with_something_added_is_named(file):
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ModelFileError) as caught:
        read_tensors(file, "model")
    assert_one_clear_line(caught, file)


@pytest.mark.parametrize("kind", ["model", "record", "checkpoint"])
@pytest.mark.parametrize("metadata", [METADATA, {}])
def test_every_flipped_bit_is_noticed(kind, metadata, tmp_path):
    file = tmp_path / "thing.safetensors"
    write_tensors(file, kind, TENSORS, metadata)
    content = file.read_bytes()
    accepted, unclear = [], []
    for position, byte in enumerate(content):
        for bit in range(8):
            with file.open("r+b") as opened:
                opened.seek(position)
                opened.write(bytes([byte ^ (1 << bit)]))
            try:
                read_tensors(file, kind)
                accepted.append((position, bit))
            except ModelFileError as error:
                unclear += [str(error)] if str(file) not in str(error) or "\n" in str(error) else []
        with file.open("r+b") as opened:
            opened.seek(position)
            opened.write(bytes([byte]))
    assert accepted == unclear == [] and len(read_tensors(file, kind)[0]) == len(TENSORS)


def test_the_same_content_gives_the_same_bytes_in_any_process(file):
    code = (
        "import sys, pathlib, numpy as np; from minicnn.storage import *; from tests.test_storage import *;"
        "write_tensors(pathlib.Path(sys.argv[1]), 'model', dict(reversed(TENSORS.items())), METADATA)"
    )
    for i in range(3):
        again = file.with_name(f"again{i}")
        subprocess.run([sys.executable, "-c", code, str(again)], check=True, timeout=120)
        assert again.read_bytes() == file.read_bytes()


def write_format_1(path, kind, tensors, metadata):
    """As minicnn 0.1 wrote files."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].tobytes(), total)
    header = {
        "format": f"minicnn-{kind}",
        "version": "1",
        "minicnn": json.dumps(metadata),
        "crc32": f"{total:08x}",
    }
    path.write_bytes(safetensors.numpy.save(tensors, header))


@pytest.mark.parametrize(("kind", "metadata"), [("model", METADATA), ("record", {})])
def test_files_of_the_first_format_are_read_and_their_check_sum_is_looked_at(kind, metadata, file):
    write_format_1(file, kind, TENSORS, metadata)
    tensors, found = read_tensors(file, kind)
    assert found == metadata and tensors.keys() == TENSORS.keys()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match="check sum"):
        read_tensors(file, kind)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_finite_numbers_are_named(value, file):
    write_tensors(file, "model", {**TENSORS, "b": np.array([1, value])}, METADATA)
    with pytest.raises(ModelFileError, match="not finite, in b"):
        read_tensors(file, "model")


def test_files_of_pytorch_say_what_they_are_and_how_the_weights_come_in(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    for content in (
        file.read_bytes(),
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M" + bytes(99),
    ):
        file.write_bytes(content)
        with pytest.raises(
            ModelFileError, match=r"is a file of PyTorch's torch\.save.*import --model"
        ) as caught:
            read_tensors(file, "model")
        assert_one_clear_line(caught, file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(ModelFileError, match=r"is a zip archive, not a minicnn model"):
        read_tensors(file, "model")


TEXTS = [
    "[" * 100_000,
    '{"a":' * 100_000,
    "NaN",
    "[]",
    "1" * 10_000,
    '{"format": "minicnn-model", "version": 2}',
    '{"format": 1, "version": 2, "metadata": {}}',
]


@pytest.mark.parametrize("text", TEXTS, ids=range(7))
def test_metadata_of_any_shape_are_one_line(text, file):
    tensors = {"a": np.zeros(1)}
    headers = [{"minicnn": f"{_check_sum(tensors, text)} {text}"}]
    if text in TEXTS[:5]:
        headers.append(
            {
                "format": "minicnn-model",
                "version": "1",
                "minicnn": text,
                "crc32": _check_sum(tensors, None),
            }
        )
    for header in headers:
        file.write_bytes(safetensors.numpy.save(tensors, header))
        with pytest.raises(ModelFileError) as caught:
            read_tensors(file, "model")
        assert_one_clear_line(caught, file)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x93NUMPY" * 99, bytes(200), b"\xff" * 200, b"{}" * 50]
)
def test_a_file_of_another_kind_is_named(content, file):
    file.write_bytes(content)
    with pytest.raises(
        ModelFileError, match="is damaged, cut off, or not a safetensors file"
    ) as caught:
        read_tensors(file, "model")
    assert_one_clear_line(caught, file)


def test_safetensors_of_another_program_are_named(file):
    for metadata, program in ((None, "another program"), ({"format": "pt"}, "PyTorch")):
        file.write_bytes(safetensors.numpy.save(TENSORS, metadata))
        with pytest.raises(
            ModelFileError,
            match=f"is a safetensors file of {program}, not a minicnn model; .*import --model",
        ):
            read_tensors(file, "model")


def test_a_checkpoint_is_no_model_and_a_model_no_checkpoint(file):
    with pytest.raises(ModelFileError, match="is a model, not a minicnn checkpoint"):
        read_tensors(file, "checkpoint")
    write_tensors(file, "checkpoint", TENSORS, METADATA)
    with pytest.raises(ModelFileError, match="is a checkpoint, not a minicnn model"):
        read_tensors(file, "model")


def test_a_file_of_a_newer_version_says_what_to_update(file):
    text = json.dumps({"format": "minicnn-model", "version": 3, "metadata": METADATA})
    file.write_bytes(
        safetensors.numpy.save(TENSORS, {"minicnn": f"{_check_sum(TENSORS, text)} {text}"})
    )
    with pytest.raises(ModelFileError, match=r"newer minicnn \(format 3\); update minicnn-numba"):
        read_tensors(file, "model")


@pytest.mark.parametrize(
    "header",
    [
        {"format": "minicnn-model", "version": "1"},
        {"format": "minicnn-model", "version": "one", "minicnn": "{}"},
        {"format": "minicnn-model", "version": "1", "minicnn": "{"},
        {"format": "minicnn-model", "version": "1", "minicnn": "[1]"},
    ],
)
def test_metadata_that_are_not_ours_are_an_error(header, file):
    file.write_bytes(safetensors.numpy.save(TENSORS, header))
    with pytest.raises(ModelFileError) as caught:
        read_tensors(file, "model")
    assert_one_clear_line(caught, file)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ModelFileError, match="no such file") as caught:
        read_tensors(tmp_path / "nothing", "model")
    assert_one_clear_line(caught, tmp_path / "nothing")
    with pytest.raises(ModelFileError, match="is a folder, not a model file") as caught:
        read_tensors(tmp_path, "model")
    assert_one_clear_line(caught, tmp_path)


def test_a_file_that_may_not_be_read_is_named(file, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    with pytest.raises(ModelFileError, match="cannot be read: Permission denied") as caught:
        read_tensors(file, "model")
    assert_one_clear_line(caught, file)


# --- files that cannot be written -----------------------------------------------------------------


def fail_with(number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_file_and_nothing_else(call, file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(os, call, fail_with(errno.ENOSPC))
    with pytest.raises(
        MinicnnError, match="No space left on device; what was there before is kept"
    ) as caught:
        write_atomically(file, b"new")
    assert_one_clear_line(caught, file)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_a_kill_before_the_rename_leaves_the_last_good_file(file, monkeypatch):
    before = file.read_bytes()

    class Killed(BaseException):
        pass

    def kill(*arguments):
        raise Killed

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        write_atomically(file, b"new")
    assert file.read_bytes() == before


def test_a_folder_that_is_missing_or_a_file_is_named(tmp_path, file):
    for path in (tmp_path / "nowhere" / "model", file / "model"):
        with pytest.raises(MinicnnError, match="cannot write") as caught:
            write_atomically(path, b"new")
        assert_one_clear_line(caught, path)


def test_a_folder_that_may_not_be_written_to_is_named(file, monkeypatch):
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", fail_with(errno.EACCES))
        with pytest.raises(MinicnnError, match=r"cannot write .*Permission denied"):
            write_atomically(file, b"new")
    assert file.read_bytes() == before


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, "model", {"weight": np.arange(8.0)}, {"some": "thing"})
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors is damaged.*check sum"):
        read_tensors(path, "model")


def test_text_that_a_spreadsheet_would_run_is_text_in_a_csv_file(tmp_path):
    cells = ["=cmd|' /C calc'!A0", "+1", "-x", "@a", "plain", -1.5, "\udcff"]
    write_csv(tmp_path / "table.csv", ["a"], [[cell] for cell in cells])
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        found = [row[0] for row in csv.reader(file)][1:]
    assert found == [*(f"'{cell}" for cell in cells[:4]), "plain", "-1.5", "\\udcff"]


def test_a_table_comes_back_from_csv_with_every_digit(tmp_path):
    write_csv(tmp_path / "table.csv", ["name", "x"], [('a, "b"\nc', 1 / 3), ("größer", None)])
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        header, first, second = csv.reader(file)
    assert header == ["name", "x"] and second == ["größer", ""]
    assert first[0] == 'a, "b"\nc' and float(first[1]) == 1 / 3


def test_a_cell_that_a_spreadsheet_would_compute_is_text(tmp_path):
    names = ["=cmd|' /C calc'!A0", "+1", "-x", "@sum", "\t=1"]
    write_csv(tmp_path / "table.csv", ["=name", "x"], [(name, -1.5) for name in names])
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["'=name", "x"], *(["'" + name, "-1.5"] for name in names)]


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path):
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    for name in (
        f".model.{dead.pid}",
        f".model.{os.getppid()}",
        ".model.mine",
        f".mode.{dead.pid}",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / f".fetching-{dead.pid}-x1").mkdir()
    (tmp_path / f".fetching-{dead.pid}-x1" / "part").write_text("")
    write_atomically(tmp_path / "model", b"whole")
    remove_leftovers(tmp_path, ".fetching-")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([f".mode.{dead.pid}", f".model.{os.getppid()}", ".model.mine", "model"])


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(
        MinicnnError, match=r"cannot write .*pipe: it is there, and no regular file"
    ):
        write_atomically(pipe, b"new")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "link", content)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"second"
    assert [*(tmp_path / "there").iterdir()] == [tmp_path / "there" / "file"]
