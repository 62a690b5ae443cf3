"""The settings of a run: what they admit, and `config.toml` as their text."""

import tomllib

import numpy as np
import pytest

from minicnn import Settings, Trainer, load_dataset
from minicnn.errors import MinicnnError, SettingError, UnknownNameError
from minicnn.training.settings import read_settings
from tests.training import small

UNUSUAL = {
    "data": 'C:\\images\\"größer" 日本 😀\n\t',
    "epochs": 3,
    "learning_rate": 1e-05,
    "clip_grad": np.float64(1e22),
    "tol": 5e-324,
    "optimizer_kwargs": {"beta1": 0.5, "epsilon": np.float64(1e-12)},
    "loss_kwargs": {"label_smoothing": 0.1},
    "class_weights": {'größer = "1"': 2, "b": np.float64(1e-7)},
    "schedule": "step",
    "schedule_kwargs": {"step_size": 2},
    "patience": 7,
}


@pytest.mark.parametrize("settings", [Settings(), Settings(**UNUSUAL)], ids=["default", "unusual"])
def test_the_settings_come_back_from_their_file(settings, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(settings.to_toml(), encoding="utf-8")
    assert read_settings(file) == settings


def test_the_settings_of_a_trainer_say_all_and_give_the_same_run(tmp_path):
    trainer, _ = small.train(epochs=2, schedule="cosine")
    settings = trainer.settings
    assert (settings.learning_rate, settings.horizon, settings.optimizer_kwargs["beta2"]) == (
        0.001,
        2,
        0.999,
    )
    assert settings.loss_kwargs == {"label_smoothing": 0.0} and settings.schedule_kwargs == {
        "minimum": 0.0
    }
    again = Trainer(small.network(), Settings(**tomllib.loads(settings.to_toml())))
    again.fit(small.dataset())
    np.testing.assert_array_equal(again.progress.params, trainer.progress.params)


def test_a_name_may_be_written_with_a_hyphen():
    for name in ("one-cycle", "one_cycle"):
        for trainer in (
            Trainer(small.network(), schedule=name),
            Trainer(small.network(), Settings(schedule=name)),
        ):
            assert trainer.settings.schedule == "one_cycle"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("epochs = ", SettingError, "is not valid TOML"),
        ("epochs = 1\nepochs = 2", SettingError, "is not valid TOML"),
        ("learning_rat = 0.1", UnknownNameError, "did you mean 'learning_rate'"),
        ("[optimiser_kwargs]\nbeta1 = 0.1", UnknownNameError, "did you mean 'optimizer_kwargs'"),
    ],
)
def test_a_file_that_is_wrong_is_named(text, error, message, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(error, match=message) as caught:
        read_settings(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"nothing\.toml cannot be read: No such file"):
        read_settings(tmp_path / "nothing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match=r"bytes\.toml is not valid TOML"):
        read_settings(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", np.int64(3)),
        ("seed", np.random.default_rng(0).integers(1000)),
        ("epochs", np.int8(2)),
        ("limit", np.uint16(50)),
        ("batch_size", np.arange(8, 9)[0]),
        ("threads", np.int32(1)),
        ("learning_rate", np.float32(0.25)),
        ("learning_rate", np.int64(1)),
        ("val_split", np.float16(0.25)),
        ("optimizer_kwargs", {"beta1": np.float32(0.5)}),
        ("class_weights", {"1": np.float32(2)}),
        ("class_weights", np.array([1, 2, 3])),
    ],
)
def test_numbers_of_numpy_are_numbers(name, value, tmp_path):
    settings = Trainer(small.network(), **{name: value}).settings
    (tmp_path / "config.toml").write_text(settings.to_toml())
    assert read_settings(tmp_path / "config.toml") == settings
    if np.ndim(value) == 0 and not isinstance(value, dict):
        assert getattr(settings, name) == value and type(getattr(settings, name)) in (int, float)


@pytest.mark.parametrize("name", Settings.__dataclass_fields__)
@pytest.mark.parametrize(
    "value",
    [{"a": {"b": 1}}, [[[1]]], [], {"a": [None]}, Ellipsis, b"x", np.zeros((2, 2))],
    ids=repr,
)
def test_values_of_a_wrong_type_are_setting_errors_of_one_line(name, value):
    with pytest.raises(SettingError, match=name) as caught:
        Settings(**{name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


DEEP = ".a" * 20_000 + " = 1"


@pytest.mark.parametrize(
    "text",
    [
        "epochs = " + "[" * 20_000,
        f"data{DEEP}",
        f"optimizer_kwargs{DEEP}",
        "a = 1\n" * 50_000,
        "\ufeffepochs = 'three'",
        "x = " + "{a=" * 3000 + "1" + "}" * 3000,
    ],
    ids=range(6),
)
def test_files_that_nest_deeply_or_are_huge_are_errors_of_one_line(text, tmp_path):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises((SettingError, UnknownNameError)) as caught:
        read_settings(tmp_path / "config.toml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", float("nan")])
@pytest.mark.parametrize(
    "name", ["epochs", "batch_size", "horizon", "threads", "patience", "limit"]
)
def test_counts_are_whole_numbers_from_1_on(name, value):
    with pytest.raises(SettingError, match=f"{name} must be a whole number from 1 on"):
        Settings(**{name: value})


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", True])
@pytest.mark.parametrize(
    "name",
    [
        "learning_rate",
        "clip_grad",
        "clip_grad_value",
        "tol",
        "data_max",
        "min_delta",
        "warmup_epochs",
        "val_split",
    ],
)
def test_amounts_are_finite_numbers_that_are_not_negative(name, value):
    with pytest.raises(SettingError, match=f"{name} must be"):
        Settings(**{name: value})
    if name in ("min_delta", "warmup_epochs", "val_split"):
        assert getattr(Settings(**{name: 0}), name) == 0
    else:
        with pytest.raises(SettingError, match=f"{name} must be a finite number above 0"):
            Settings(**{name: 0})


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: Trainer("lenet5"), "network must be a Network or a Model, not 'lenet5'"),
        (lambda: Trainer(small.network(), {"epochs": 1}), "settings must be a Settings"),
        (lambda: Settings(augment={1: 2}), "augment must be a table of names"),
        (lambda: Settings(learning_rate_factors={3: 1.0}), "learning_rate_factors must be a table"),
        (
            lambda: Trainer(small.network(), init="run").fit(small.dataset()),
            "init is a model that was not loaded",
        ),
        (
            lambda: Trainer(small.network()).fit(*small.arrays(30), validation=0.2),
            "validation must be",
        ),
        (lambda: load_dataset("fashion-mnist-12k", resize=7), "resize must be"),
    ],
)
def test_what_python_is_given_wrongly_is_one_line(use, words):
    with pytest.raises(MinicnnError, match=words) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_epochs_win_over_the_time_limit_of_the_settings():
    trainer = Trainer(small.network(), Settings(time_limit=60.0), epochs=2)
    assert len(trainer.fit(small.dataset()).epochs) == 2
