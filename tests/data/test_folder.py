"""Folders of class folders."""

import numpy as np
import pytest
from PIL import Image

from minicnn.data import load_dataset
from minicnn.errors import DataError, SettingError, UnknownNameError


def write(path, value=0, size=(4, 6), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), value).save(path)


def write_classes(folder, classes=("ant", "bee"), count=10):
    for label, name in enumerate(classes):
        for i in range(count):
            write(folder / name / f"{i:02}.png", 100 * label + i)
    return folder


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_train_and_test_folders_are_the_splits(tmp_path):
    write_classes(tmp_path / "train", ("bee", "ant"), count=3)
    write_classes(tmp_path / "test", ("bee",), count=2)
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert dataset.image_shape == (4, 6, 1)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.images[:, 0, 0, 0].tolist() == [100, 101, 102, 0, 1, 2]
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [1, 1]


def test_a_train_folder_alone_has_no_test_set(tmp_path):
    write_classes(tmp_path / "train")
    assert load_dataset(tmp_path).test is None


def test_class_folders_alone_give_about_a_fifth_to_the_test_set_by_the_seed(tmp_path):
    write_classes(tmp_path, count=100)
    dataset = load_dataset(tmp_path, seed=1)
    assert 20 <= len(dataset.test) <= 60 and len(dataset.train) + len(dataset.test) == 200
    values = [split.images[:, 0, 0, 0].tolist() for split in (dataset.train, dataset.test)]
    assert sorted(values[0] + values[1]) == sorted([*range(100), *range(100, 200)])
    assert values[1] == load_dataset(tmp_path, seed=1).test.images[:, 0, 0, 0].tolist()
    assert values[1] != load_dataset(tmp_path, seed=2).test.images[:, 0, 0, 0].tolist()


def test_images_that_come_or_go_move_no_other_between_training_and_test(tmp_path):
    write_classes(tmp_path, count=50)
    before = load_dataset(tmp_path).test.images[:, 0, 0, 0].tolist()
    for i in range(12):
        write(tmp_path / "ant" / f"another{i}.png", 255)
    (tmp_path / "bee" / "07.png").unlink()
    (tmp_path / "bee" / "08.png").rename(tmp_path / "ant" / "late-08.png")
    write(tmp_path / "cow" / "1.png", 255)
    after = [
        value
        for value in load_dataset(tmp_path).test.images[:, 0, 0, 0].tolist()
        if value not in (107, 108, 255)
    ]
    assert after == [value for value in before if value not in (107, 108)]


@pytest.mark.parametrize("seed", range(20))
def test_every_class_keeps_an_image_to_train_on(tmp_path, seed):
    write_classes(tmp_path, ("ant", "bee", "cow"), count=1)
    write_classes(tmp_path, ("dog",), count=2)
    assert set(load_dataset(tmp_path, seed=seed).train.labels) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("training", "testing")])
def test_a_validation_folder_validates(tmp_path, train, test, name):
    write_classes(tmp_path / train, count=4)
    write_classes(tmp_path / name, ("bee",), count=3)
    write_classes(tmp_path / test, ("ant",), count=2)
    dataset = load_dataset(tmp_path)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [8, 3, 2]
    assert dataset.validation.labels.tolist() == [1, 1, 1] and dataset.test.labels.tolist() == [
        0,
        0,
    ]


def test_two_validation_folders_and_folders_that_are_no_split_are_said(tmp_path, caplog):
    write_classes(tmp_path / "train", count=4)
    write_classes(tmp_path / "extra", count=4)
    assert len(load_dataset(tmp_path).train) == 8
    assert caplog.messages == [
        f"{tmp_path}: folders beside train that are no split are left out: extra"
    ]
    write_classes(tmp_path / "val", count=3)
    write_classes(tmp_path / "dev", count=3)
    assert "holds dev and val: which of them is the validation split?" in refusal(tmp_path)


def test_a_test_folder_alone_cannot_be_trained_on(tmp_path):
    write_classes(tmp_path / "test", count=4)
    assert f"{tmp_path} holds no training images" in refusal(tmp_path)


def test_classes_may_be_called_dev_and_test(tmp_path):
    assert load_dataset(write_classes(tmp_path, ("dev", "ops", "test"))).classes == (
        "dev",
        "ops",
        "test",
    )


def test_a_class_may_be_called_train(tmp_path):
    assert load_dataset(write_classes(tmp_path, ("bus", "train"))).classes == ("bus", "train")


def test_jpeg_files_and_capital_suffixes_count_other_files_do_not(tmp_path):
    write_classes(tmp_path)
    write(tmp_path / "ant" / "x.JPG", 7)
    write(tmp_path / "ant" / "y.jpeg", 7)
    (tmp_path / "ant" / "notes.txt").write_text("hello")
    (tmp_path / "ant" / "._00.png").write_text("what a file manager leaves behind")
    (tmp_path / ".cache").mkdir()
    dataset = load_dataset(tmp_path)
    assert len(dataset.train) + len(dataset.test) == 22


def test_mixed_sizes_name_the_file_and_both_sizes(tmp_path):
    write_classes(tmp_path / "train")
    write(tmp_path / "train" / "bee" / "05.png", 1, size=(4, 7))
    assert "05.png is 4x7 grey, but" in refusal(tmp_path)
    assert "00.png is 4x6 grey" in refusal(tmp_path)


def test_grey_among_colour_names_the_file(tmp_path):
    write_classes(tmp_path / "train")
    write(tmp_path / "train" / "bee" / "05.png", (1, 2, 3), mode="RGB")
    assert "05.png is 4x6 colour, but" in refusal(tmp_path)


def test_an_empty_folder_is_no_data_set(tmp_path):
    assert f"{tmp_path} is not a data set" in refusal(tmp_path)


@pytest.mark.parametrize("split", ["", "train", "test"])
def test_a_class_without_an_image_names_its_folder(tmp_path, split):
    write_classes(tmp_path / "train" if split else tmp_path)
    (tmp_path / split / "cow").mkdir(parents=True)
    if split == "test":
        write_classes(tmp_path / "train", ("cow",))
    assert f"{tmp_path / split / 'cow'} holds no PNG, JPEG, WebP, BMP, TIFF or GIF file" in refusal(
        tmp_path
    )


def test_a_test_class_that_training_lacks_is_named(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", ("cow",))
    assert (
        f"{tmp_path / 'test' / 'cow'} is a class that the training images do not have"
        in refusal(tmp_path)
    )


def test_an_empty_test_folder_is_refused(tmp_path):
    write_classes(tmp_path / "train")
    (tmp_path / "test").mkdir()
    assert f"{tmp_path / 'test'} holds no class folder" in refusal(tmp_path)


def test_options_bring_images_together_and_the_errors_name_them(tmp_path):
    write_classes(tmp_path / "train")
    write(tmp_path / "train" / "bee" / "05.png", (10, 20, 30), size=(8, 12), mode="RGB")
    said = refusal(tmp_path)
    assert said.endswith("bring all images together with resize= and grayscale= or rgb=")
    grey = load_dataset(tmp_path, resize=(4, 6), grayscale=True)
    assert grey.image_shape == (4, 6, 1) and grey.train.images[15, 0, 0, 0] == 18
    colour = load_dataset(tmp_path, resize=(3, 5), rgb=True)
    assert colour.image_shape == (3, 5, 3)
    assert colour.train.images[15, 0, 0].tolist() == [10, 20, 30]
    assert colour.train.images[14, 0, 0].tolist() == [104] * 3
    with pytest.raises(SettingError, match="grayscale= and rgb= exclude each other"):
        load_dataset(tmp_path, grayscale=True, rgb=True)
    with pytest.raises(SettingError, match=r"resize must be \[height, width\], not"):
        load_dataset(tmp_path, resize=(0, 4))
    with pytest.raises(UnknownNameError, match="did you mean 'resize'"):
        load_dataset(tmp_path, rezise=(4, 4))


def test_sixteen_bits_stay_when_resized(tmp_path):
    for name in ("ant", "bee"):
        for i in range(4):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), 30_000, np.uint16)).save(path)
    dataset = load_dataset(tmp_path, resize=(2, 2))
    assert (dataset.image_dtype, dataset.maximum) == ("uint16", 65535)
    assert (dataset.train.images == 30_000).all()


def test_what_is_skipped_in_all_class_folders_is_one_line(tmp_path, caplog):
    write_classes(tmp_path)
    for name in ("ant/a.txt", "bee/b.txt", "bee/c.svg"):
        (tmp_path / name).touch()
    load_dataset(tmp_path)
    assert caplog.messages == [f"{tmp_path}: files that are not read as images: 1 .svg, 2 .txt"]
