"""ZIP and tar archives of class folders."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from minicnn.data import load_dataset
from minicnn.errors import DataError


def png(value, size=(4, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size[1], size[0]), value).save(file, "png")
    return file.getvalue()


def names(folder: str = "", classes=("ant", "bee"), count: int = 10) -> dict[str, bytes]:
    return {
        f"{folder}{name}/{i:02}.png": png(100 * label + i)
        for label, name in enumerate(classes)
        for i in range(count)
    }


def write_archive(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpacked(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def refusal(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
@pytest.mark.parametrize("inside", ["", "pictures/"])
@pytest.mark.parametrize("split", [False, True])
def test_an_archive_is_read_as_its_folder_would_be(tmp_path, suffix, inside, split, caplog):
    parts = {"train/": 9, "val/": 3, "test/": 2} if split else {"": 20}
    files = {}
    for part, count in parts.items():
        files |= names(inside + part, count=count)
    files[f"{inside}{next(iter(parts))}ant/notes.txt"] = b"hello"
    files[f"{inside}.DS_Store"] = files["__MACOSX/ant/._00.png"] = b"what a file manager leaves"
    expected = load_dataset(unpacked(tmp_path / "set", files))
    said = caplog.messages.copy()
    caplog.clear()
    found = load_dataset(write_archive(tmp_path / f"set.{suffix}", files))
    assert found.classes == expected.classes == ("ant", "bee")
    assert list(found.splits) == list(expected.splits)
    for kind, part in expected.splits.items():
        np.testing.assert_array_equal(found.splits[kind].images, part.images)
        np.testing.assert_array_equal(found.splits[kind].labels, part.labels)
    assert len(said) == len(caplog.messages) == 1 and "1 .txt" in said[0]


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../../out.png", "/etc/out.png", "ant\\..\\..\\out.png"])
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path, suffix, name):
    path = write_archive(tmp_path / f"set.{suffix}", names() | {name: png(1)})
    assert "leads out of the archive" in refusal(path)


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path, suffix):
    path = write_archive(tmp_path / f"set.{suffix}", names() | {"ant/big.bin": bytes(3_000_000)})
    assert "above the limit of 0.002 GB; allow more with data_gb=" in refusal(path, data_gb=0.002)
    assert load_dataset(path, data_gb=0.004).classes == ("ant", "bee")


def test_links_in_a_tar_are_left_out(tmp_path):
    path = write_archive(tmp_path / "set.tar", names())
    (tmp_path / "secret.png").write_bytes(png(255))
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"ant/link{kind!r}.png")
            link.type, link.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(link)
    dataset = load_dataset(path)
    assert len(dataset.train) + len(dataset.test) == 20


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_a_damaged_archive_is_said_in_a_line(tmp_path, suffix):
    path = write_archive(tmp_path / f"set.{suffix}", names())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert f"set.{suffix}" in refusal(path)
    path.write_bytes(content[: len(content) // 2])
    assert f"set.{suffix}" in refusal(path)


def test_an_image_in_an_archive_that_is_none_is_named(tmp_path):
    path = write_archive(tmp_path / "set.zip", names() | {"bee/x.png": b"no image"})
    assert f"{path}/bee/x.png is not a PNG" in refusal(path)
