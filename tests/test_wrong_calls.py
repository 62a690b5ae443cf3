"""Wrong calls of public functions: one line that names the argument and says what would be right,
before anything runs or is written; and options that take effect on arrays, too."""

import copy
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import (
    Dataset,
    Dense,
    Flatten,
    Loss,
    Model,
    Network,
    Optimizer,
    Passes,
    Trainer,
    load_dataset,
)
from minicnn.data import Split
from minicnn.errors import MinicnnError
from minicnn.formats.c_out import write_c
from minicnn.formats.numpy_out import write_numpy
from minicnn.formats.state_dict import from_state_dict, save_state_dict, to_state_dict
from minicnn.insight import BatchLoss, loss_surface, lr_find, read_run
from minicnn.training.checkpoint import load_checkpoint
from tests.training import small

NETWORK = small.network()
PARAMS = NETWORK.initialize(np.random.default_rng(0))
MODEL = Model(NETWORK, PARAMS, ("a", "b", "c"))
X, Y = small.arrays(30)
NAN = float("nan")


def fit(x=X, y=Y, options=None, **more):
    return Trainer(NETWORK, epochs=1, **(options or {})).fit(x, y, **more)


def model(**changed):
    return Model(**{"network": NETWORK, "params": PARAMS, "classes": ("a", "b", "c")} | changed)


def relabelled(label):
    """A data set whose first label was written over after it was made."""
    data = small.dataset()
    data.train.labels[0] = label
    return data


ROWS = np.zeros((4, 3), np.float32)


def by_operation(**how):
    passes = Passes(NETWORK, PARAMS, 30, by_operation=True)
    return passes.forward_by_operation(X / 255, **how)


def batch_loss(**changed):
    made = {"network": NETWORK, "params": PARAMS, "images": X, "labels": Y, "loss": Loss("mse", 3)}
    return BatchLoss(**made | changed)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: fit(resume=3), "resume must be a Checkpoint or a run folder, not 3"),
        (lambda: fit(resume="nosuch"), "nosuch: no such file"),
        (lambda: fit(reporters=print), "reporters must be a list of functions of an event"),
        (lambda: fit(reporters=[1]), r"reporters must be a list of functions of an event, not \[1"),
        (lambda: fit(options={"callbacks": print}), "callbacks must be a list of functions"),
        (lambda: fit(None), "the images must be an array, not None"),
        (lambda: fit("mnist", None), r"labels are missing: .*, such as load_dataset\(x\) gives"),
        (lambda: fit(image for image in X), "the images must be an array, not <generator"),
        (
            lambda: fit([[1, 2], [3]], [0, 1]),
            "the images are not an array: setting an array element",
        ),
        (lambda: fit(X, [[0], [1, 2]]), "the labels are not an array"),
        (lambda: fit(np.ma.array(X, mask=X < 9)), "the images are a masked array"),
        (lambda: fit(output=3), "output must be a path, not 3"),
        (lambda: fit(output="a\0b"), r"output must be a path, not 'a\\x00b'"),
        (lambda: fit(classes=3), "classes must be a list, in the order of the outputs, not 3"),
        (lambda: fit(classes={"b": 1, "a": 0, "c": 2}), "classes must be a list, in the order"),
        (lambda: fit(classes={"a", "b", "c"}), "classes must be a list, in the order"),
        (lambda: fit(small.dataset(), None, test=(X, Y)), "test is for arrays: a Dataset has"),
        (lambda: fit(small.dataset(), None, validation=(X, Y)), "validation is for arrays"),
        (lambda: fit(small.dataset(), None, classes=["a"]), "classes is for arrays"),
        (lambda: fit(options={"data": "mnist"}), "data is an option of the command line"),
        (lambda: fit(options={"model": "mlp"}), "model is an option of the command line"),
        (
            lambda: fit(small.dataset(), None, {"resize": (4, 4)}),
            r"resize does not change a Dataset, whose images are \[6, 6, 1\]: load_dataset\(resize=",
        ),
        (lambda: fit(small.dataset(), None, {"rgb": True}), "rgb does not change a Dataset"),
        (
            lambda: fit(options={"augment": {"crop": 6}}),
            "crop must be below the sides .*6x6, not 6",
        ),
        (lambda: fit(options={"augment": {"cutout": 9}}), "cutout must be below the sides"),
        (lambda: fit(options={"limit": 1}), "limit 1 leaves no image of class '[012]' to train on"),
        (lambda: fit(options={"limit": 2}), "limit 2 leaves no image of class '[012]' to train on"),
        (
            lambda: fit(options={"data_max": 1e300}),
            r"values up to \d+, so on a scale that ends at 1e\+300 they are black; .* data_max=",
        ),
        (lambda: Trainer(NETWORK).dry_run(X), r"load_dataset\(\) gives a Dataset, and this is"),
        (lambda: next(Trainer(NETWORK).run(X)), r"load_dataset\(\) gives a Dataset"),
        (lambda: Trainer(NETWORK).profile(None), r"load_dataset\(\) gives a Dataset"),
        (
            lambda: Trainer(NETWORK).profile(small.dataset(), NAN),
            "seconds must be above 0, not nan",
        ),
        (lambda: MODEL.profile(X, seconds="1"), "seconds must be above 0, not 1"),
        (lambda: minicnn.recipe(3), "unknown recipe 3"),
        (lambda: minicnn.preset(3, (8, 8), 2), "unknown network 3"),
        (lambda: minicnn.layer(3), "a layer is a name or a rule, not 3"),
        (lambda: MODEL.predict([[1, 2], [3]]), "the images are not an array"),
        (lambda: MODEL.predict("image.png"), "the images must be an array, not 'image.png'"),
        (lambda: MODEL.predict(np.ma.array(X, mask=X < 9)), "the images are a masked array"),
        (lambda: MODEL.evaluate(X, [[0], [1, 2]]), "the labels are not an array"),
        (lambda: MODEL.evaluate(X, Y, "cross_entropy"), r"loss must be a Loss\(name, classes\)"),
        (lambda: model(network="lenet5"), "network must be a Network, not 'lenet5'"),
        (lambda: model(params=PARAMS * np.float32(NAN)), "params hold what is no finite number"),
        (lambda: model(labels=3), "the labels must be an array, not 3"),
        (lambda: model(normalization=3), "normalization must be mean and deviation of 1"),
        (lambda: model(normalization=("a", "b")), "normalization must be mean and deviation"),
        (lambda: minicnn.load(None), "path must be a path, not None"),
        (lambda: MODEL.save(3), "path must be a path, not 3"),
        (lambda: minicnn.save(3, "x"), "model must be a Model, not 3"),
        (lambda: minicnn.from_onnx(b"abc"), "path must be a path, not b'abc'"),
        (lambda: write_c(MODEL, None), "path must be a path, not None"),
        (lambda: write_numpy(MODEL, None), "folder must be a path, not None"),
        (lambda: save_state_dict(MODEL, None), "path must be a path, not None"),
        (lambda: from_state_dict(None, NETWORK), "tensors must be a state_dict or its file"),
        (lambda: from_state_dict({0: PARAMS}, NETWORK), "tensors must be a state_dict"),
        (lambda: from_state_dict({}, "lenet5"), "network must be a Network, not 'lenet5'"),
        (
            lambda: from_state_dict({**to_state_dict(MODEL), "dense1.bias": list("xyz")}, NETWORK),
            "'dense1.bias' holds <U1 and no real numbers",
        ),
        (
            lambda: from_state_dict(
                {name: 1j * one for name, one in to_state_dict(MODEL).items()}, NETWORK
            ),
            "'conv1.weight' holds complex64 and no real numbers",
        ),
        (
            lambda: from_state_dict(to_state_dict(MODEL), NETWORK, mean="x"),
            "mean and std must be numbers, one or one per channel",
        ),
        (lambda: Network((8, 8), None), "layers must be a list of layers, not None"),
        (lambda: NETWORK.initialize(0), r"rng must be np.random.default_rng\(seed\), not 0"),
        (lambda: Optimizer("adam", None), "size must be a whole number from 1 on, not None"),
        (lambda: Passes(None, PARAMS, 4), "network must be a Network, not None"),
        (lambda: Dataset("n", None, None, ("a", "b"), 1.0), "a split must be a Split, not None"),
        (
            lambda: Dataset("n", Split(X, Y), (X, Y), ("a", "b", "c"), 255.0),
            "a split must be a Split, not",
        ),
        (lambda: fit(relabelled(10**6), None), "label 1000000 of training image 0 is outside"),
        (lambda: lr_find(Trainer(NETWORK), relabelled(-7)), "label -7 of training image 0"),
        (
            lambda: lr_find(Trainer(NETWORK), load_dataset("fashion-mnist-12k")),
            r"takes images \[6, 6, 1\], but fashion-mnist-12k has \[28, 28, 1\]",
        ),
        (lambda: read_run(None), "folder must be a path, not None"),
        *[
            (
                lambda weights=weights: Loss("mse", 3)(ROWS, Y[:4], weights),
                "sample_weights must be 4 finite numbers",
            )
            for weights in (np.ones(1), np.ones(0), np.ones((4, 1)), np.full(4, NAN))
        ],
        (lambda: by_operation(first=-1), "first must be from 0 to 3, not -1"),
        (lambda: by_operation(first=99), "first must be from 0 to 3, not 99"),
        (lambda: by_operation(key=-1), "key must be a whole number from 0 to below 2"),
        (lambda: by_operation(key=0.5), "key must be a whole number from 0 to below 2"),
        (lambda: fit(X.astype(np.uint16), test=(X / 255, Y)), "test images are float64, which has"),
        (lambda: fit(options={"learning_rate": 10**400}), "learning_rate must be a finite number"),
        (lambda: batch_loss(images="x"), "the images must be an array, not 'x'"),
        (lambda: batch_loss(images=X[:, :5]), r"images must be numbers \[N, 6, 6, 1\], not uint8"),
        (lambda: batch_loss(images=X[:0], labels=Y[:0]), r"not uint8 \[0, 6, 6, 1\]"),
        (lambda: loss_surface(batch_loss(labels=Y[:5])), r"must be integers \[30\] or floats"),
        (lambda: batch_loss(labels=Y + 2), "labels must be from 0 to 2, not 2 to 4"),
        (lambda: batch_loss(params=PARAMS[:5]), "params must be a contiguous"),
        (lambda: batch_loss(loss="mse"), r"loss must be a Loss\(name, outputs\), not 'mse'"),
        (lambda: batch_loss(loss=Loss("mse", 7)), r"logits must be \[N, 7\], not \[30, 3\]"),
        (lambda: batch_loss(network=None), "network must be a Network, not None"),
        *[
            (lambda how=how: load_dataset("fashion-mnist-12k", **how), f"{next(iter(how))} must be")
            for how in (
                {"seed": -1},
                {"seed": "a"},
                {"data_gb": -1},
                {"data_gb": "x"},
                {"grayscale": "no"},
                {"rgb": 3},
                {"maximum": "x"},
            )
        ],
    ],
)
def test_a_wrong_call_is_one_line(use, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MinicnnError, match=words) as caught:
        use()
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"resize": (4, 5)}, (4, 5, 3)),
        ({"grayscale": True}, (6, 6, 1)),
        ({"resize": (4, 4), "grayscale": True, "channels": "first"}, (4, 4, 1)),
    ],
)
def test_images_are_brought_together_in_arrays_as_in_files(options, shape, tmp_path):
    """The same weights as of a data set that was read with these options."""
    x = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)
    if "channels" in options:
        x = x.transpose(0, 3, 1, 2)
    network = Network(shape, [Flatten(), Dense(3)])
    np.savez(tmp_path / "set.npz", x_train=x, y_train=Y, x_test=x[:9], y_test=Y[:9])
    trained = []
    for data in ((x, Y), (load_dataset(tmp_path / "set.npz", **options),)):
        trainer = Trainer(network, epochs=2, threads=1, **options)
        trainer.fit(*data)
        trained.append(trainer.model.params)
    np.testing.assert_array_equal(*trained)


def test_a_run_goes_on_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    halves = {"epochs": 1, "threads": 1, "batch_size": 10}
    Trainer(NETWORK, **halves).fit(X, Y, output="~/run")
    whole = Trainer(NETWORK, **{**halves, "epochs": 2})
    whole.fit(X, Y)
    for given in ("~/run", tmp_path / "run", load_checkpoint(tmp_path / "run")):
        rest = Trainer(NETWORK, **{**halves, "epochs": 2})
        assert len(rest.fit(X, Y, resume=given).epochs) == 1
        np.testing.assert_array_equal(rest.model.params, whole.model.params)
    assert minicnn.load("~/run").classes == minicnn.load(Path("~/run")).classes


@pytest.mark.parametrize("rate", [1e38, 1e200])
def test_a_run_that_diverges_is_told_without_a_warning_of_numpy(rate):
    """Warnings are errors in the tests."""
    options = {"learning_rate": rate, "batch_size": 27, "record": 0, "threads": 1}
    with pytest.raises(MinicnnError, match="after epoch 1; the first weights are kept"):
        fit(options=options)


def test_labels_that_are_written_over_in_training_are_those_of_the_beginning():
    data, trained = small.dataset(), []
    for label in (None, 10**9):

        def write(event, label=label):
            if label is not None and type(event).__name__ == "Compiled":
                data.train.labels[:] = label

        trainer = Trainer(NETWORK, epochs=2, loss="mse", threads=1, val_split=0.0)
        trainer.fit(data, reporters=[write])
        trained.append(trainer.model.params)
    np.testing.assert_array_equal(*trained)


def test_a_run_in_a_folder_is_not_written_over(tmp_path):
    fit(output=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(MinicnnError, match="holds a run: name another folder, or go on with it"):
        fit(output=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert fit(output=tmp_path, resume=tmp_path).epochs == []


def test_a_model_of_a_users_own_class_keeps_what_it_has():
    class Named(Model):
        pass

    one = Named(NETWORK, PARAMS, ("a", "b", "c"))
    vars(one)["word"] = "kept"
    one.predict(X)
    other = copy.deepcopy(one)
    assert type(other) is Named and vars(other)["word"] == "kept"
    assert not {"_inference", "_folded"} & vars(other).keys()
