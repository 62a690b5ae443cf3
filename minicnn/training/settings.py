"""The settings of a run: what `config.toml` holds, and all that a run depends on besides the
data."""

import json
import math
import numbers
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from minicnn.backends import DEVICES
from minicnn.errors import SettingError, UnknownNameError

_MOST_BYTES = 50_000  # of a file of settings


@dataclass(frozen=True)
class Settings:
    """Every setting of a run with its default; `SettingError` for a value outside what the setting
    admits.

    None means: nothing given, so the optimizer's own default (``learning_rate``), 64 or the size of
    a smaller set (``batch_size``), all cores (``threads``), or off (``patience``, ``tol``,
    ``clip_grad``, ``clip_grad_value``, ``limit``, ``record``).
    """

    data: str = "fashion-mnist-12k"
    data_max: float | None = None
    data_gb: float = 4.0  # what packed arrays may take
    channels: str = "last"  # of arrays of images: "first" for [N, C, H, W]
    resize: list[int] | None = None  # height and width that images are brought to
    grayscale: bool = False  # images are brought to grey
    rgb: bool = False  # images are brought to three channels
    model: str = "vgg-small"
    init: str | None = None  # file of a model whose weights are the first ones
    epochs: int = 10
    batch_size: int | None = None
    optimizer: str = "adam"
    optimizer_kwargs: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    decay: str = "all"  # what weight decay pulls: all tensors, or weights alone
    loss: str = "cross_entropy"
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    schedule: str = "constant"
    schedule_kwargs: dict[str, float] = field(default_factory=dict)
    schedule_of: str = (
        "learning_rate"  # the hyperparameter of the optimizer that the schedule multiplies
    )
    horizon: int | None = None  # epochs that a schedule with a horizon was planned for
    warmup_epochs: float = 0.0
    clip_grad: float | None = None
    clip_grad_value: float | None = None
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    val_split: float = 0.1
    patience: int | None = None
    min_delta: float = 0.0
    tol: float | None = None
    limit: int | None = None
    record: int | None = None  # a line of the record after so many batches; 0: after every epoch

    def __post_init__(self) -> None:
        for setting in fields(self):
            object.__setattr__(self, setting.name, _plain(getattr(self, setting.name)))
        for name in (
            "data",
            "model",
            "optimizer",
            "loss",
            "schedule",
            "schedule_of",
            "device",
            "decay",
        ):
            if not isinstance(getattr(self, name), str):
                raise SettingError(f"{name} must be a name, not {shortened(getattr(self, name))}")
        for name in ("optimizer_kwargs", "loss_kwargs", "schedule_kwargs"):
            table = getattr(self, name)
            if not isinstance(table, dict):
                raise SettingError(
                    f"{name} must be a table of names and values, not {shortened(table)}"
                )
            for key, value in table.items():
                listed = value if isinstance(value, list) else [value]
                if not all(isinstance(item, int | float | str) for item in listed):
                    raise SettingError(f"{name}: {key} must be a number, not {shortened(value)}")
        whole = {
            "epochs": 1,
            "batch_size": 1,
            "horizon": 1,
            "seed": 0,
            "threads": 1,
            "patience": 1,
            "limit": 1,
            "record": 0,
        }
        for name, least in whole.items():
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < least
            ):
                raise SettingError(
                    f"{name} must be a whole number from {least} on, not {shortened(value)}"
                )
        above_zero = ("learning_rate", "clip_grad", "clip_grad_value", "tol", "data_max", "data_gb")
        for name in (*above_zero, "warmup_epochs", "min_delta", "val_split"):
            value = getattr(self, name)
            if value is None:
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not math.isfinite(value)
                or value < 0
            ):
                raise SettingError(
                    f"{name} must be a finite number from 0 on, not {shortened(value)}"
                )
            if value == 0 and name in above_zero:
                raise SettingError(f"{name} must be above 0")
        if self.val_split >= 1:
            raise SettingError(
                f"val_split is a share of the training images, from 0 to below 1, not {self.val_split!r}"
            )
        if self.channels not in ("first", "last"):
            raise SettingError(f"channels must be first or last, not {shortened(self.channels)}")
        if self.resize is not None and not (
            isinstance(self.resize, list)
            and len(self.resize) == 2
            and all(type(side) is int and side > 0 for side in self.resize)
        ):
            raise SettingError(f"resize must be [height, width], not {shortened(self.resize)}")
        for name in ("grayscale", "rgb"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"{name} must be true or false")
        if self.device not in DEVICES:
            raise SettingError(f"device must be {' or '.join(DEVICES)}, not {self.device!r}")

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        return asdict(self)

    def to_toml(self) -> str:
        """The text of `config.toml`; what is None is left out."""
        values = {name: value for name, value in self.to_dict().items() if value is not None}
        lines = [
            f"{name} = {_toml(value)}"
            for name, value in values.items()
            if not isinstance(value, dict)
        ]
        for name, table in values.items():
            if isinstance(table, dict) and table:
                lines += [
                    "",
                    f"[{name}]",
                    *(f"{key} = {_toml(value)}" for key, value in table.items()),
                ]
        return "\n".join(lines) + "\n"


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file; raises `SettingError` naming the file, or `UnknownNameError` for
    an unknown key."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if (
            len(content) > _MOST_BYTES
        ):  # dotted keys take time and memory by the square of their length
            raise SettingError(
                f"{path} is no file of settings: it has more than {_MOST_BYTES:,} bytes"
            )
        values = tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}") from None
    check_names(values, f"setting in {path}")
    return values


def check_names(values: Mapping[str, Any], kind: str) -> None:
    """Raise `UnknownNameError` for a key that is no setting."""
    known = [setting.name for setting in fields(Settings)]
    for name in values:
        if name not in known:
            raise UnknownNameError(kind, name, known)


def _plain(value: Any, levels: int = 2) -> Any:
    """``value`` with Python's numbers and lists in the place of others, such as NumPy's, as deep as
    settings go."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if levels and isinstance(value, dict):
        return {key: _plain(item, levels - 1) for key, item in value.items()}
    return (
        [_plain(item, levels - 1) for item in value]
        if levels and isinstance(value, list | tuple)
        else value
    )


def _toml(value: Any) -> str:
    if isinstance(value, str | bool):
        # TOML's basic strings and booleans are written like JSON's, but it has no surrogate pairs.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return repr(value)
