"""First weights by a setting: those of the network's methods, on the images that train."""

import numpy as np
import pytest
import tomli_w

from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU, Trainer, load
from minicnn.cli import main
from minicnn.errors import NetworkError, SettingError, UnknownNameError
from tests.training import small

NETWORK = Network(
    (6, 6, 1),
    [
        *(Conv2d(8, 2), ReLU(), Conv2d(8, 3, padding="same"), ReLU(), MaxPool2d(2)),
        *(Flatten(), Dense(3)),
    ],
)
METHODS = {"conv1": "whitening", "conv*": "dirac"}


@pytest.mark.parametrize("normalize", [False, True])
def test_a_run_begins_with_the_methods_on_its_training_images(normalize):
    trainer = Trainer(
        NETWORK, epochs=1, initialization=METHODS, normalize=normalize, learning_rate=1e-30
    )
    x, y = small.arrays(50)
    trainer.fit(x, y, validation=(x, y))
    x = x / np.float32(255)
    images = (x - x.mean()) / x.std() if normalize else x
    expected = NETWORK.initialize(np.random.default_rng([0, 0]), methods=METHODS, images=images)
    assert np.abs(trainer.model.params - expected).max() < 1e-4
    found = NETWORK.unflatten(trainer.model.params)
    assert np.abs(found["conv2.weight"][1, 1] - np.eye(8)).max() < 1e-20
    assert np.abs(found["conv1.weight"]).max() > 0.1


def test_what_does_not_fit_is_refused_before_anything_runs():
    with pytest.raises(UnknownNameError, match="layer to initialize 'conv7'"):
        Trainer(NETWORK, initialization={"conv7": "dirac"})
    with pytest.raises(UnknownNameError, match="unknown initialization '3'"):
        Trainer(NETWORK, initialization={"conv1": 3})
    with pytest.raises(NetworkError, match="conv2 cannot whiten"):
        Trainer(NETWORK, initialization={"conv2": "whitening"})
    trained = Trainer(NETWORK, epochs=1)
    trained.fit(*small.arrays(20))
    with pytest.raises(SettingError, match="initialization is for new weights"):
        Trainer(trained.model, initialization=METHODS)


def test_the_command_line_has_it_and_a_resumed_run_goes_on_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = small.arrays(50)
    np.savez("small.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "net.toml").write_text(tomli_w.dumps({"layers": NETWORK.to_dict()["layers"]}))
    given = ["train", "--data", "small.npz", "--model", "net.toml", "--initialization"]
    given += ["conv1=whitening", "conv*=dirac"]
    assert main([*given, "--epochs", "2", "--output", "whole"]) == 0
    assert main([*given, "--epochs", "1", "--output", "parts"]) == 0
    assert main(["train", "--resume", "parts", "--epochs", "2"]) == 0
    whole, parts = load("whole").params, load("parts").params
    assert whole.tobytes() == parts.tobytes()


def test_an_option_without_a_method_says_what_it_looks_like(capsys):
    assert main(["train", "--initialization", "conv1"]) == 2
    assert "--initialization must look like name=value, not 'conv1'" in capsys.readouterr().err
