"""Augmentation: what is drawn for each image in each epoch. The pixels are made where a batch is
gathered (`minicnn.kernels.augment`)."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from minicnn.data.labels import Array
from minicnn.errors import SettingError
from minicnn.kernels.augment import (
    BORDER,
    BORDERS,
    BOX,
    COLUMNS,
    CUTOUT,
    GAIN,
    KEPT,
    PARTNER,
    SHARE,
    SHIFT,
)
from minicnn.kinds import FLAG, FRACTION, INDEX, Kind, one_of

_MOST = 1 << 24  # whole numbers up to this are float32
_SHARE = Kind(float, "a number from 0 to 1", within=lambda value: 0 <= value <= 1)
_KINDS = {
    "flip": Kind(
        (bool, str),
        "true, false or alternating",
        within=(True, False, "alternating").__contains__,
    ),
    "flip_vertical": FLAG,
    "crop": INDEX,
    "border": one_of(*BORDERS),
    "cutout": INDEX,
    "rotate": Kind(float, "degrees from 0 to 180", within=lambda value: 0 <= value <= 180),
    "scale": FRACTION,
}


@dataclass(frozen=True)
class Augment:
    """How training images are changed, each anew in each epoch; raises `SettingError` for what is
    out of range.

    ``flip``: mirror left and right, True: by chance, "alternating": in every other epoch, half of
    the images in the even ones. ``flip_vertical``: upside down, by chance. ``crop``: move by up to
    so many pixels; what comes in from outside is black, the nearest pixel, or reflected
    (``border``: "zero", "edge", "reflect"). ``cutout``: the side of a square that is set to 0, the
    mean of normalized images. ``rotate``: by up to so many degrees. ``scale``: larger or smaller by
    up to this share. ``brightness``: up to this share of the full scale more or less.
    ``contrast``: up to this share more or less about its middle. ``mixup`` and ``cutmix``: α, above
    0 up to 1, of the Beta distribution by which another training image is mixed in, or a box of it
    pasted; with both, either by chance. The image's own label keeps the larger share.

    >>> Augment(flip=True, crop=4)
    Augment(flip=True, crop=4)
    """

    flip: bool | str = False
    flip_vertical: bool = False
    crop: int = 0
    border: str = "zero"
    cutout: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for setting in fields(self):
            kind = _KINDS.get(setting.name, _SHARE)
            kind.check(f"augment: {setting.name}", getattr(self, setting.name))

    def __repr__(self) -> str:
        return (
            f"Augment({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from no augmentation."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(Augment, name)}

    @property
    def mixes(self) -> bool:
        """Whether an image has part of another one, and of its label."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self, images: Array) -> None:
        """Raise `SettingError` for what does not fit ``images`` [N, H, W, C]."""
        count, height, width = images.shape[:3]
        for name in ("crop", "cutout"):
            if getattr(self, name) >= min(height, width):
                raise SettingError(
                    f"augment: {name} must be below the sides of the images, {height}x{width}, "
                    f"not {getattr(self, name)}"
                )
        if self.mixes and count > _MOST:
            raise SettingError(f"augment: mixup and cutmix take at most {_MOST} images")

    def draw(
        self,
        seed: int,
        epoch: int,
        images: Array,
        train: Array | None = None,
        maximum: float = 255.0,
        middle: float | None = None,
    ) -> Array:
        """The views [N, columns], float32, of ``images`` [N, H, W, C] in ``epoch``, a function of
        seed, epoch and image alone.

        ``train`` are the numbers of the images that may be mixed in (None: all). Values go to
        ``maximum``, and contrast is about ``middle`` (None: half of it). The random numbers are
        Philox's, which count.
        """
        self.check(images)
        count, height, width = images.shape[:3]
        random = np.random.Generator(np.random.Philox([seed, 3, epoch]))
        u, views = random.random((count, 16)).T, np.zeros((count, COLUMNS), np.float32)

        def around(column: int, most: float) -> Array:
            return (2 * u[column] - 1) * most

        mirrored = u[0] < 0.5
        if self.flip == "alternating":
            mirrored = np.random.Generator(np.random.Philox([seed, 4])).random(count) < 0.5
            mirrored ^= bool(epoch % 2)
        flip_x = np.where(mirrored & bool(self.flip), -1.0, 1.0)
        flip_y = np.where((u[1] < 0.5) & self.flip_vertical, -1.0, 1.0)
        zoom, angle = 1 + around(4, self.scale), around(5, math.radians(self.rotate))
        cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
        y, x = (height - 1) / 2, (width - 1) / 2
        rows = (cosine * flip_y, -sine * flip_x, y), (sine * flip_y, cosine * flip_x, x)
        for axis, (of_h, of_w, center) in enumerate(rows):
            moved = np.floor(u[2 + axis] * (2 * self.crop + 1)) - self.crop
            views[:, 3 * axis], views[:, 3 * axis + 1] = of_h, of_w
            views[:, 3 * axis + 2] = center - of_h * y - of_w * x + moved
        contrast = 1 + around(6, self.contrast)
        middle = maximum / 2 if middle is None else middle
        views[:, GAIN] = contrast
        views[:, SHIFT] = maximum * around(7, self.brightness) + middle * (1 - contrast)
        for axis, side in enumerate((height, width)):
            first = np.floor(u[8 + axis] * side) - self.cutout // 2
            views[:, CUTOUT + axis], views[:, CUTOUT + 2 + axis] = first, first + self.cutout
        views[:, BORDER], views[:, PARTNER] = BORDERS.index(self.border), -1
        if self.mixes:
            among = np.arange(count) if train is None else train
            views[:, PARTNER] = among[(u[10] * len(among)).astype(np.int64)]
            paste = (u[11] < 0.5) | (self.mixup == 0) if self.cutmix else np.zeros(count, bool)
            part = np.where(
                paste,
                random.beta(self.cutmix or 1, self.cutmix or 1, count),
                random.beta(self.mixup or 1, self.mixup or 1, count),
            )
            part = np.minimum(part, 1 - part)
            views[:, KEPT] = np.where(paste, 1, 1 - part)
            sides = [np.where(paste, np.rint(np.sqrt(part) * side), 0) for side in (height, width)]
            for axis, side in enumerate((height, width)):
                first = np.floor(u[12 + axis] * (side - sides[axis] + 1))
                views[:, BOX + axis], views[:, BOX + 2 + axis] = first, first + sides[axis]
            pasted = sides[0] * sides[1] / (height * width)
            views[:, SHARE] = np.where(paste, 1 - pasted, 1 - part)
        return views
