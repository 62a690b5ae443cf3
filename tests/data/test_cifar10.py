"""CIFAR-10 batches, binary and pickled, as a folder and as an archive; and pickles that want more
than data."""

import gzip
import io
import os
import pickle
import pickletools
import struct
import tarfile

import numpy as np
import pytest

from minicnn.data import load_dataset
from minicnn.errors import DataError

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LABELS = list(range(10))


def planes(name: str) -> np.ndarray:
    return np.random.default_rng(NAMES.index(name)).integers(0, 256, (10, 3072), np.uint8)


def binary_files() -> dict[str, bytes]:
    labels = np.array(LABELS, np.uint8)[:, None]
    return {f"{name}.bin": np.hstack([labels, planes(name)]).tobytes() for name in NAMES}


def python2_pickle(batch: dict[str, object]) -> bytes:
    """The pickle that Python 2 wrote (protocol 2); its str, text and bytes alike, has an opcode of
    its own."""

    def string(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def array(value: np.ndarray) -> bytes:
        dtype = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
        dtype += (
            b"("
            + integer(3)
            + string(b"|")
            + b"NNN"
            + integer(-1)
            + integer(-1)
            + integer(0)
            + b"tb"
        )
        empty = (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            + integer(0)
            + b"\x85"
            + string(b"b")
        )
        shape = b"".join(map(integer, value.shape)) + b"\x86"
        return (
            empty
            + b"\x87R("
            + integer(1)
            + shape
            + dtype
            + b"\x89"
            + string(value.tobytes())
            + b"tb"
        )

    def encode(value: object) -> bytes:
        if isinstance(value, np.ndarray):
            return array(value)
        if isinstance(value, list):
            return b"](" + b"".join(map(encode, value)) + b"e"
        return integer(value) if isinstance(value, int) else string(value.encode())

    return (
        b"\x80\x02}(" + b"".join(string(k.encode()) + encode(v) for k, v in batch.items()) + b"u."
    )


WRITERS = {
    "Python 2": python2_pickle,
    **{f"protocol {i}": lambda batch, i=i: pickle.dumps(batch, protocol=i) for i in range(6)},
    "bytes keys": lambda batch: pickle.dumps(
        {key.encode(): value for key, value in batch.items()}, protocol=2
    ),
    "column order": lambda batch: pickle.dumps(
        {key: np.asfortranarray(value) if key == "data" else value for key, value in batch.items()},
        protocol=4,
    ),
}


def python_files(write=python2_pickle) -> dict[str, bytes]:
    files = {
        name: write(
            {
                "batch_label": name,
                "labels": LABELS,
                "data": planes(name),
                "filenames": ["a.png"] * 10,
            }
        )
        for name in NAMES
    }
    return {
        **files,
        "batches.meta": write(
            {"num_cases_per_batch": 10, "label_names": CLASSES[::-1], "num_vis": 3072}
        ),
    }


def write_folder(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path, files, prefix="cifar-10-batches/"):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check(dataset):
    expected = np.concatenate([planes(name) for name in NAMES[:5]])
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.train.images.shape[0] == 50
    for image, row, column, channel in [(0, 0, 0, 0), (13, 31, 2, 1), (49, 5, 30, 2)]:
        assert (
            dataset.train.images[image, row, column, channel]
            == expected[image, channel * 1024 + row * 32 + column]
        )
    assert np.array_equal(
        dataset.test.images.transpose(0, 3, 1, 2).reshape(10, 3072), planes("test_batch")
    )
    assert dataset.train.labels.tolist() == LABELS * 5


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_binary_batches_are_read_from_a_folder_and_from_the_archive(tmp_path):
    folder = load_dataset(write_folder(tmp_path / "bin", binary_files()))
    archive = load_dataset(write_tar(tmp_path / "any-name.tgz", binary_files()))
    inside = load_dataset(write_tar(tmp_path / "cifar-10-binary.tar.gz", binary_files()).parent)
    for dataset in (folder, archive, inside):
        check(dataset)
        assert list(dataset.classes) == CLASSES


def test_the_names_in_batches_meta_txt_are_the_classes(tmp_path):
    names = "\n".join(CLASSES[::-1]).encode() + b"\n\n"
    dataset = load_dataset(write_folder(tmp_path, {**binary_files(), "batches.meta.txt": names}))
    assert list(dataset.classes) == CLASSES[::-1]


@pytest.mark.parametrize("writer", WRITERS)
def test_python_batches_of_every_age_are_read(tmp_path, writer):
    files = python_files(WRITERS[writer])
    for path in (write_folder(tmp_path / "py", files), write_tar(tmp_path / "py.tar.gz", files)):
        dataset = load_dataset(path)
        check(dataset)
        assert list(dataset.classes) == CLASSES[::-1]


def test_the_python_2_pickle_of_these_tests_is_a_real_one():
    batch = {"labels": LABELS, "data": planes("test_batch")}
    assert pickletools.optimize(python2_pickle(batch))
    loaded = pickle.loads(
        python2_pickle(batch).replace(b"numpy.core", b"numpy._core"), encoding="bytes"
    )
    assert loaded[b"labels"] == LABELS
    assert np.array_equal(loaded[b"data"], batch["data"])


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("evil", "asked"),
    [
        (Evil(os.system, "touch ran"), f"{os.name}.system"),
        (Evil(eval, "open('ran', 'w')"), "builtins.eval"),
        (Evil(np.fromfile, "x"), "numpy"),
        (Evil(getattr, {}, "keys"), "builtins.getattr"),
        (np.float64(3), "scalar"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_does_more_than_hold_data_is_refused_and_not_run(
    tmp_path, monkeypatch, evil, asked, protocol
):
    monkeypatch.chdir(tmp_path)
    files = python_files()
    files["data_batch_3"] = pickle.dumps(
        {"data": planes("data_batch_3"), "labels": LABELS, "more": evil}, protocol
    )
    text = refusal(write_folder(tmp_path / "py", files))
    assert str(tmp_path / "py" / "data_batch_3") in text
    assert "is refused: its pickle asks for" in text
    assert asked in text or asked.replace("builtins", "__builtin__") in text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"not a pickle", pickle.dumps([1]), pickle.dumps({"data": 1})]
)
def test_a_damaged_pickle_names_its_file(tmp_path, content):
    assert "data_batch_2" in refusal(
        write_folder(tmp_path, {**python_files(), "data_batch_2": content})
    )


def test_a_truncated_pickle_names_its_file(tmp_path):
    files = python_files()
    files["test_batch"] = files["test_batch"][:-100]
    assert "test_batch" in refusal(write_folder(tmp_path, files))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [300] * 10},
        {"labels": "abc"},
        {"data": np.zeros((10, 3072))},
        {"data": np.zeros((10, 7), np.uint8)},
    ],
)
def test_a_python_batch_of_other_values_names_its_file(tmp_path, change):
    batch = {"data": planes("data_batch_1"), "labels": LABELS, **change}
    assert "data_batch_1" in refusal(
        write_folder(tmp_path, {**python_files(), "data_batch_1": pickle.dumps(batch)})
    )


def test_fewer_labels_than_images_are_refused(tmp_path):
    batch = {"data": planes("data_batch_1"), "labels": LABELS[:-1]}
    text = refusal(write_folder(tmp_path, {**python_files(), "data_batch_1": pickle.dumps(batch)}))
    assert "data_batch_1: 10 images but 9 labels" in text


@pytest.mark.parametrize("keep", [0, 3072, 3074])
def test_a_truncated_binary_batch_names_its_file(tmp_path, keep):
    files = binary_files()
    files["data_batch_4.bin"] = files["data_batch_4.bin"][:keep]
    assert "data_batch_4.bin is truncated" in refusal(write_folder(tmp_path, files))


@pytest.mark.parametrize("missing", ["data_batch_5", "test_batch"])
def test_a_missing_batch_is_named(tmp_path, missing):
    files = binary_files()
    del files[f"{missing}.bin"]
    assert f"the batch {missing} (or {missing}.bin) is missing" in refusal(
        write_folder(tmp_path, files)
    )


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_archive_names_itself(tmp_path, keep):
    data = write_tar(tmp_path / "set.tar.gz", binary_files()).read_bytes()
    (tmp_path / "set.tar.gz").write_bytes(data[: int(keep * len(data))])
    assert str(tmp_path / "set.tar.gz") in refusal(tmp_path / "set.tar.gz")


def test_an_archive_without_batches_is_refused_and_nothing_is_unpacked(tmp_path):
    write_tar(tmp_path / "set.tar.gz", {"readme": b"hello", "test_batch": b""}, prefix="../")
    assert "test_batch cannot be read" in refusal(tmp_path / "set.tar.gz")
    write_tar(tmp_path / "set.tar.gz", {"readme": b"hello"}, prefix="../")
    assert "'../readme' leads out of the archive" in refusal(tmp_path / "set.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]
    assert not (tmp_path.parent / "readme").exists()


def test_a_gz_that_is_no_archive_is_no_data_set(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"hello"))
    assert "is not a data set" in refusal(tmp_path / "x.gz")


# --- archives and pickles that are damaged or made to harm ----------------------------------------


def test_every_flipped_bit_of_an_archive_is_noticed_or_changes_nothing(tmp_path):
    content = write_tar(tmp_path / "set.tar.gz", binary_files()).read_bytes()
    expected = load_dataset(tmp_path / "set.tar.gz")
    rng = np.random.default_rng(0)
    for position in rng.integers(
        10, len(content), 60
    ).tolist():  # before that, gzip's header says a time and a name
        changed = bytearray(content)
        changed[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "set.tar.gz").write_bytes(changed)
        try:
            found = load_dataset(tmp_path / "set.tar.gz")
        except DataError:
            continue
        for one, other in ((found.train, expected.train), (found.test, expected.test)):
            assert np.array_equal(one.images, other.images) and np.array_equal(
                one.labels, other.labels
            )


def test_a_batch_larger_than_the_format_has_is_refused_before_it_is_read(tmp_path):
    with gzip.open(
        tmp_path / "set.tar.gz", "wb", compresslevel=1
    ) as file:  # a tar of 300 MiB of zeros in 1.3 MB
        member = tarfile.TarInfo("data_batch_1.bin")
        member.size = 300 << 20
        file.write(member.tobuf())
        for _ in range(300):
            file.write(bytes(1 << 20))
    assert "holds more than 256 MiB" in refusal(tmp_path / "set.tar.gz")
    folder = write_folder(tmp_path / "folder", binary_files())
    with (folder / "data_batch_2.bin").open("r+b") as file:
        file.truncate(1 << 40)  # a hole
    assert "data_batch_2.bin is refused: it holds more than 32 MiB" in refusal(folder)


def test_a_sparse_member_is_refused(tmp_path):
    member = tarfile.TarInfo("data_batch_1.bin")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x0000000001000\x00"  # one piece at 0, of 512 bytes
    header[483:495] = b"27777777777\x00"  # the size with its holes: 3 GiB
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    (tmp_path / "set.tar").write_bytes(bytes(header) + bytes(512) + bytes(10240))
    with tarfile.open(tmp_path / "set.tar") as archive:
        assert archive.getmembers()[0].issparse() and archive.getmembers()[0].size > 2**31
    assert "is a sparse file, which no batch is" in refusal(tmp_path / "set.tar")


ATTRIBUTE = b"\x80\x02c_codecs\nencode\n}X\x04\x00\x00\x00evilK\x01sb."
HARMFUL = {
    "nested a million deep": (
        b"\x80\x02N" + b"\x85" * 10**6 + b".",
        "more steps than a batch needs",
    ),
    "a table of 16 GB": (b"\x80\x02Nr\xff\xff\xff\x7f.", "more steps than a batch needs"),
    "an attribute of a function": (ATTRIBUTE, "sets attributes of a function"),
    "an object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "its pickle does NEWOBJ"),
    "a set": (pickle.dumps({1, 2}, protocol=4), "its pickle does "),
    "an extension": (b"\x80\x02\x82\x01.", "its pickle does EXT1"),
}


@pytest.mark.parametrize("harm", HARMFUL)
def test_a_pickle_made_to_harm_is_refused(tmp_path, harm):
    content, text = HARMFUL[harm]
    assert text in refusal(write_folder(tmp_path, {**python_files(), "data_batch_2": content}))


def test_the_largest_batch_is_not_refused(tmp_path):
    files = python_files()
    names = [f"{i}.png" for i in range(10_000)]
    batch = {"labels": [9] * 10_000, "data": np.zeros((10_000, 3072), np.uint8), "filenames": names}
    for protocol in (2, 4, 5):
        files["data_batch_1"] = pickle.dumps(batch, protocol)
        assert len(load_dataset(write_folder(tmp_path, files)).train) == 10_040
