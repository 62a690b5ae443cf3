"""Labels in the forms that people have: what a run makes of them, and what the model gives back."""

import numpy as np
import pytest

from minicnn import Dense, Flatten, Network, Trainer, load
from minicnn.errors import DataError, NetworkError

K = np.arange(60) % 3
FORMS = {  # labels: what predict gives back for the classes, and their names
    "int8": (K.astype(np.int8), [0, 1, 2], "0 1 2"),
    ">i4": (K.astype(">i4"), [0, 1, 2], "0 1 2"),
    "list": (K.tolist(), [0, 1, 2], "0 1 2"),
    "column": (K[:, None], [0, 1, 2], "0 1 2"),
    "float": (K.astype(float), [0, 1, 2], "0 1 2"),
    "one-hot": (np.eye(3)[K], [0, 1, 2], "0 1 2"),
    "object": (K.astype(object), [0, 1, 2], "0 1 2"),
    "from 1": (K + 1, [1, 2, 3], "1 2 3"),
    "gaps": (np.array([0, 5, 7])[K], [0, 5, 7], "0 5 7"),
    "negative": (K - 1, [-1, 0, 1], "-1 0 1"),
    "uint64": (
        K.astype(np.uint64) * 10**12,
        [0, 10**12, 2 * 10**12],
        "0 1000000000000 2000000000000",
    ),
    "text": (np.array(["b", "a", "c"])[K], ["a", "b", "c"], "a b c"),
    "bytes": (np.array([b"b", b"a", b"c"])[K], ["a", "b", "c"], "a b c"),
    "objects of text": (np.array(["b", "a", "c"], object)[K], ["a", "b", "c"], "a b c"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [False, True])
def test_labels_come_back_from_predict_as_they_were_given(form, given, tmp_path, caplog):
    labels, values, names = FORMS[form]
    x = np.zeros((60, 4, 4), np.uint8)
    x[np.arange(60), K] = 255
    trainer = Trainer(
        Network((4, 4), [Flatten(), Dense(3)]), epochs=20, learning_rate=0.1, val_split=0.2
    )
    flat = np.asarray(labels).ravel() if form != "one-hot" else K
    trainer.fit(x, labels, classes=np.unique(flat) if given else None, test=(x[:4], labels[:4]))
    trainer.model.save(tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors")
    assert model.classes == tuple(names.split())
    assert model.predict(x).tolist() == [
        v.decode() if isinstance(v, bytes) else v for v in flat.tolist()
    ]
    assert set(model.predict(x).tolist()) == set(values)
    assert model.evaluate(x[:5], labels[:5]).accuracy == 1
    said = (
        []
        if given or values == [0, 1, 2]
        else [f"arrays: the labels {names.replace(' ', ', ')} are the classes 0 to 2"]
    )
    assert caplog.messages == said


def test_labels_that_are_no_classes_are_refused():
    x, network = np.zeros((60, 4, 4), np.uint8), Network((4, 4), [Flatten(), Dense(3)])
    for labels, text in (
        (K + 0.5, "whole class numbers or names, not float64 such as 0.5, 1.5, 2.5"),
        (np.full(60, np.nan), "not float64 such as nan"),
        ([None] * 60, "whole class numbers"),
        (np.eye(3)[K] * 2, "one-hot"),
        (np.eye(3)[K] + 1, "one-hot"),
        (K.reshape(3, 4, 5), "one-hot rows"),
        (K[:50], "60 training images but 50 labels"),
        (K[:0], "60 training images but 0 labels"),
        (np.where(K == 1, 0, K), "class '1' has no training image"),
        (["a", "b"] * 30, "has 2 classes"),
    ):
        with pytest.raises((DataError, NetworkError), match=text):
            Trainer(network).fit(x, labels)
    with pytest.raises(DataError, match=r"arrays: the test label 9 is none of the classes 1, 2, 3"):
        Trainer(network).fit(x, K + 1, test=(x[:1], [9]))
    with pytest.raises(
        DataError, match=r"arrays: the validation label 'd' is none of the classes a, b, c"
    ):
        Trainer(network).fit(x, np.array(["a", "b", "c"])[K], validation=(x[:1], ["d"]))
