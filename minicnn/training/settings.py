"""The settings of a run, each described once: from `Settings` come the options of the command line
and their help, the checks, and `config.toml`."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

from minicnn.backends import DEVICES
from minicnn.errors import SettingError, check_known
from minicnn.kinds import (
    AMOUNT,
    COUNT,
    DATA,
    DURATION,
    FLAG,
    FRACTION,
    INDEX,
    MODEL,
    NAME,
    PATTERNS,
    POSITIVE,
    SIZE,
    TABLE,
    WEIGHTS,
    Kind,
    one_of,
    plain,
)
from minicnn.toml import read_toml

if TYPE_CHECKING:
    from minicnn.data.augment import Augment


def _setting(
    kind: Kind,
    default: Any,
    help: str,
    default_words: str = "",
    *options: str,
    fixed: bool = False,
    shown: bool = False,
) -> Any:
    """A field of `Settings`. ``default_words`` stand in the help for a default that says little.

    ``options`` are its names on the command line where they are not the field's; without ``help``
    there is none. A run that is resumed cannot change what is ``fixed``; what is ``shown`` is
    printed even if it has its default.
    """
    metadata = {"kind": kind, "help": "", "options": options, "fixed": fixed, "shown": shown}
    if help:
        metadata["help"] = f"{help} (default: {default_words or str(default).removesuffix('.0')})"
    if kind is TABLE:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Every setting of a run with its default; `SettingError` for a value outside what the setting
    admits.

    None, where it is the default, means: nothing given, so the optimizer's own default
    (``learning_rate``), 64 or the size of a smaller set (``batch_size``), all cores (``threads``),
    or off.
    """

    data: str = _setting(DATA, "fashion-mnist-12k", "data set, see minicnn data list")
    data_max: float | None = _setting(
        POSITIVE,
        None,
        "image value that is scaled to 1",
        "255 for bytes, 1 for floats",
        fixed=True,
    )
    data_gb: float = _setting(POSITIVE, 4.0, "memory limit for unpacked arrays, in GB")
    channels: str = _setting(
        one_of("first", "last"), "last", "axis of the channels in arrays of images"
    )
    resize: list[int] | None = _setting(
        SIZE, None, "height and width that images are resized to", "their own", fixed=True
    )
    grayscale: bool = _setting(FLAG, False, "convert colour images to grey", "no", fixed=True)
    rgb: bool = _setting(FLAG, False, "give grey images three channels", "no", fixed=True)
    normalize: bool = _setting(
        FLAG,
        False,
        "scale each channel to mean 0 and standard deviation 1 over the training images",
        "no",
        fixed=True,
    )
    augment: dict[str, Any] = _setting(
        TABLE,
        None,
        "change the training images: flip crop=4 cutout=8 ..., or none",
        "no",
        fixed=True,
    )
    init: str | None = _setting(
        MODEL,
        None,
        "start from the weights, classes and scale of this model file or run folder",
        "random weights",
        fixed=True,
    )
    initialization: dict[str, str] = _setting(
        TABLE,
        None,
        "first weights of layers, by name or pattern: conv1=whitening 'conv*=dirac' dense1=zeros",
        "He's or Glorot's",
        fixed=True,
    )
    freeze: list[str] | None = _setting(
        PATTERNS,
        None,
        "layers that are not trained, by name or pattern such as 'conv*'; with --init, fine-tuning",
        "none",
        fixed=True,
    )
    model: str = _setting(MODEL, "vgg-small", "a preset such as lenet5, or a file", fixed=True)
    epochs: int = _setting(COUNT, 10, "epochs in all, those before --resume included", shown=True)
    time_limit: float | str | None = _setting(
        DURATION,
        None,
        "train as many epochs as fit, instead of --epochs: 90s, 10m, 1h",
        "none",
        shown=True,
    )
    batch_size: int | None = _setting(
        COUNT,
        None,
        "images per step",
        "64, or all of a smaller set",
        "-b",
        "--batch-size",
        fixed=True,
        shown=True,
    )
    optimizer: str = _setting(NAME, "adam", "optimizer", "", "--opt", fixed=True, shown=True)
    optimizer_kwargs: dict[str, float] = _setting(
        TABLE, None, "hyperparameters of the optimizer", "its own", "--opt-kwargs"
    )
    learning_rate: float | None = _setting(
        POSITIVE, None, "learning rate", "the optimizer's", "--lr", shown=True
    )
    decay: str = _setting(
        one_of("all", "weights"),
        "all",
        "what weight decay applies to: weights leaves out biases, scales and shifts",
    )
    learning_rate_factors: dict[str, float] = _setting(
        TABLE,
        None,
        "factors of the learning rate for tensors of a kind or a name: shift=64 'conv1.*=0'",
        "1",
        "--lr-factors",
    )
    weight_decay_factors: dict[str, float] = _setting(
        TABLE, None, "factors of the weight decay, likewise", "1", "--decay-factors"
    )
    loss: str = _setting(NAME, "cross_entropy", "loss")
    loss_kwargs: dict[str, Any] = _setting(
        TABLE,
        None,
        "hyperparameters of the loss",
        "its own",
    )
    class_weights: str | list[float] | dict[Any, float] | None = _setting(
        WEIGHTS,
        None,
        "weights of the classes in the loss: balanced, numbers in their order, or name=number, "
        "where the others have 1",
        "1 each",
    )
    schedule: str = _setting(
        NAME, "constant", "schedule; linear+cosine is a sequence", "constant", "--sched", shown=True
    )
    schedule_kwargs: dict[str, Any] = _setting(
        TABLE, None, "hyperparameters of the schedule", "its own", "--sched-kwargs"
    )
    schedule_unit: str = _setting(
        one_of("epoch", "step"), "epoch", "what a schedule counts", "", "--sched-unit"
    )
    schedule_of: str = _setting(
        NAME,
        "learning_rate",
        "hyperparameter of the optimizer that the schedule multiplies",
        "",
        "--sched-of",
    )
    horizon: int | None = _setting(COUNT, None, "")  # epochs that a schedule was planned for
    warmup_epochs: float = _setting(AMOUNT, 0.0, "epochs in which the learning rate grows from 0")
    warmup_steps: int = _setting(INDEX, 0, "the same in steps instead of epochs")
    clip_grad: float | None = _setting(
        POSITIVE, None, "greatest global L2 norm of the gradient", "no limit"
    )
    clip_grad_value: float | None = _setting(
        POSITIVE, None, "greatest gradient of a weight", "no limit"
    )
    ema: float | None = _setting(
        FRACTION,
        None,
        "validate and keep a moving average of the weights with this decay per step, such as 0.999",
        "the weights",
    )
    seed: int = _setting(
        INDEX, 0, "seed of first weights, order and validation split", fixed=True, shown=True
    )
    threads: int | None = _setting(COUNT, None, "threads to compute with", "all cores")
    device: str = _setting(one_of(*DEVICES), "cpu", "where to compute")
    reduction: str = _setting(
        one_of("ordered", "fast", "overlapped"),
        "ordered",
        "how ranks add gradients: in the order of the shards, as threads do, or as MPI does, at the "
        "end of the backward pass or in parts during it",
    )
    batch_statistics: str = _setting(
        one_of("global", "local"),
        "global",
        "what batch normalization normalizes by: all ranks' images, or each rank's own",
    )
    val_split: float = _setting(
        FRACTION, 0.1, "fraction of the images that validates", fixed=True, shown=True
    )
    patience: int | None = _setting(
        COUNT, None, "stop after N epochs without a better loss", "never"
    )
    min_delta: float = _setting(
        AMOUNT, 0.0, "least decrease of the loss that --patience counts as better"
    )
    tol: float | None = _setting(
        POSITIVE, None, "stop when the training loss changes by less in an epoch", "never"
    )
    limit: int | None = _setting(
        COUNT,
        None,
        "train on only N images, every class in proportion",
        "all",
        fixed=True,
    )
    record: int | None = _setting(
        INDEX,
        None,
        "keep the trajectory of the weights, the norms of gradients and updates and the "
        "activations of the layers, a line per epoch, or every N batches",
        "keep nothing",
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            name, kind = setting.name, setting.metadata["kind"]
            value = getattr(self, name)
            value = plain(value.to_dict() if hasattr(value, "to_dict") else value)
            if kind is DURATION and isinstance(value, str):
                value = seconds(value)
            object.__setattr__(self, name, value)
            if not (value is None is setting.default):
                kind.check(name, value)
            for key, item in value.items() if kind is TABLE else ():
                listed = item if isinstance(item, list) else [item]
                if not all(isinstance(one, int | float | str) for one in listed):
                    raise SettingError(f"{name}: {key} must be a number, not {shortened(item)}")
        if self.augment:
            make_augment(self.augment)
        if self.warmup_epochs and self.warmup_steps:
            raise SettingError("warmup_epochs and warmup_steps exclude each other")

    @property
    def factors(self) -> dict[str, dict[str, float]]:
        """The factors of the tensors, as `minicnn.Optimizer` takes them."""
        return {
            "learning_rate": self.learning_rate_factors,
            "weight_decay": self.weight_decay_factors,
        }

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        return asdict(self)

    def to_toml(self) -> str:
        """The text of `config.toml`; what is None or empty is left out."""
        import tomli_w

        return tomli_w.dumps(
            {name: value for name, value in self.to_dict().items() if value not in (None, {})}
        )


# What is said for one optimizer, loss or schedule, and nothing to another, with what it is unsaid.
BELONGS: dict[str, dict[str, Any]] = {
    "optimizer": {"optimizer_kwargs": {}, "learning_rate": None},
    "loss": {"loss_kwargs": {}, "class_weights": None},
    "schedule": {"schedule_kwargs": {}, "horizon": None},
}


def make_augment(values: Mapping[str, Any]) -> "Augment":
    """The `Augment` that the setting means; raises `UnknownNameError` and `SettingError`."""
    from minicnn.data.augment import Augment

    known = [setting.name for setting in fields(Augment)]
    check_known("augmentation", values, known)
    return Augment(**values)


def read_settings(path: Path) -> Settings:
    """The settings in a TOML file; raises `SettingError` naming the file, or `UnknownNameError` for
    an unknown key."""
    values = read_toml(path)
    check_names(values, f"setting in {path}")
    try:
        return Settings(**values)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from None


def shown(settings: Settings, usual: Settings) -> dict[str, Any]:
    """The ``settings`` worth showing: those that identify a run, and those that differ from the
    ``usual`` ones."""
    found: dict[str, Any] = {}
    for setting in fields(Settings):
        name, metadata = setting.name, setting.metadata
        value, other = getattr(settings, name), getattr(usual, name)
        if isinstance(value, dict):
            value = {key: item for key, item in value.items() if (other or {}).get(key) != item}
        if value not in (None, {}) and (metadata["shown"] or (metadata["help"] and value != other)):
            found[name] = value
    return found


def check_names(values: Mapping[str, Any], kind: str) -> None:
    """Raise `UnknownNameError` for a key that is no setting."""
    check_known(kind, values, [setting.name for setting in fields(Settings)])


def seconds(text: str) -> float | str:
    """``10m`` as 600.0; anything that is no duration is returned as it is."""
    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+) *([smh]?)", text)
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else text
