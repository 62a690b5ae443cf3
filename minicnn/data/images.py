"""Image files as uint8 or uint16 arrays, and images brought to another size or to grey."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minicnn.data.dataset import Array
from minicnn.data.reading import ALONE, DEFAULTS, ReadOptions, note, reading
from minicnn.errors import DataError, MissingExtraError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAGICS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
KINDS = "PNG, JPEG, WebP, BMP, TIFF or GIF"
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L


def list_images(*folders: Path) -> list[list[Path]]:
    """Return the image files in each folder and the folders in it, by their suffix, sorted by name.

    Files with another suffix are counted and reported in one line. Raises `DataError` for a folder
    without an image.
    """
    skipped: Counter[str] = Counter()
    files: list[list[Path]] = []
    for folder in folders:
        with reading(folder):
            inside = sorted(path for path in folder.rglob("*") if path.is_file())
        images = []
        for path in inside:
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue
            if path.suffix.lower() in SUFFIXES:
                images.append(path)
            else:
                skipped[path.suffix.lower() or "no suffix"] += 1
        if not images:
            raise DataError(f"{folder} holds no {KINDS} file")
        files.append(images)
    if skipped:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        place = folders[0] if len(folders) == 1 else folders[0].parent
        note(f"{place}: files that are not read as images: {counts}")
    return files


def read_image(path: Path) -> Array:
    """Read one file as uint8 [H, W, 1] if it is grey (uint16 if that has 16 bits), [H, W, 3] if it
    has colours or a palette.

    It is upright as its EXIF orientation says, transparent parts lie on white (on black, if all
    would be white), and of several frames the first one is taken. Raises `DataError` for a file
    that is not a whole image, `MissingExtraError` without Pillow.
    """
    pillow, operations = _pillow()
    with reading(path), path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", pillow.DecompressionBombWarning
        )  # twice as many are refused
        try:
            image = pillow.open(file, formats=("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"))
        except pillow.UnidentifiedImageError:
            raise DataError(f"{path} is not a {KINDS} image") from None
        with image:
            image = operations.exif_transpose(image)
            grey = image.mode in ("1", "L", "LA")
            if image.mode.startswith("I"):
                pixels = np.asarray(image)
                if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
                    raise DataError(
                        f"{path} holds whole numbers of 32 bits, not 0 to 65535: save them as NPY"
                    )
                pixels = pixels.astype(np.uint16)
            elif image.mode == "F":
                raise DataError(f"{path} holds floats: save them as NPY")
            elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                pixels = np.asarray(
                    _on_a_ground(image.convert("RGBA"), pillow).convert("L" if grey else "RGB")
                )
            else:
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _on_a_ground(image: Any, pillow: ModuleType) -> Any:
    white, black = (
        pillow.alpha_composite(pillow.new("RGBA", image.size, ground), image)
        for ground in ("white", "black")
    )
    return black if white.convert("L").getextrema() == (255, 255) else white


def read_images(paths: Sequence[Path], options: ReadOptions = DEFAULTS) -> Array:
    """Read files into one array [N, H, W, C], converted as the ``options`` say; all must then be of
    one size, one number of channels and one depth. Each rank of a reader decodes some of them."""
    first, alone = convert_image(read_image(paths[0]), options), replace(options, reader=ALONE)

    def part(begin: int, end: int) -> partial[None]:
        return partial(_decode, paths[begin:end], str(paths[0]), alone)

    return options.reader.fill((len(paths), *first.shape), first.dtype, part)


def _decode(paths: Sequence[Path], first: str, options: ReadOptions, images: Array) -> None:
    """Fill ``images``, which are like the ``first`` one, from the files ``paths``."""
    for i, path in enumerate(paths):
        image = convert_image(read_image(path), options)
        if (image.shape, image.dtype) != (images.shape[1:], images.dtype):
            arguments = ["resize="] * (image.shape[:2] != images.shape[1:3])
            arguments += ["grayscale= or rgb="] * (image.shape[2] != images.shape[3])
            hint = (
                f": bring all images together with {' and '.join(arguments)}" if arguments else ""
            )
            raise DataError(
                f"{path} is {_describe(image)}, but {first} is {_describe(images[0])}{hint}"
            )
        images[i] = image


def convert_image(image: Array, options: ReadOptions) -> Array:
    """Return [H, W, C] in the size and the colours that the ``options`` name; integers stay
    integers."""
    values = image
    if options.grayscale and image.shape[2] != 1:
        if image.shape[2] != 3:
            raise DataError(
                f"an image of {image.shape[2]} channels cannot be made grey: that needs 3"
            )
        values = (image @ _LUMA).astype(np.float32)[..., np.newaxis]
        if image.dtype == np.uint8:
            values = np.rint(values).astype(np.uint8)
    if options.rgb and image.shape[2] != 3:
        if image.shape[2] != 1:
            raise DataError(
                f"an image of {image.shape[2]} channels cannot be given three: that needs 1"
            )
        values = np.repeat(values, 3, axis=2)
    if options.resize and image.shape[:2] != tuple(options.resize):
        (height, width), (pillow, _) = options.resize, _pillow()
        if values.dtype != np.uint8:
            values = values.astype(np.float32)
        channels = [
            pillow.fromarray(channel) for channel in np.ascontiguousarray(values.transpose(2, 0, 1))
        ]
        size, bilinear = (int(width), int(height)), pillow.Resampling.BILINEAR
        values = np.stack([np.asarray(c.resize(size, bilinear)) for c in channels], axis=-1)
    if image.dtype.kind in "iu" and values.dtype != image.dtype:
        values = np.rint(values).astype(image.dtype)
    return values


def convert_images(images: Array, options: ReadOptions) -> Array:
    """Apply `convert_image` to each of [N, H, W] or [N, H, W, C]."""
    if not options.converts or images.ndim not in (3, 4) or len(images) == 0:
        return images
    with_channels = images[..., np.newaxis] if images.ndim == 3 else images
    return np.stack([convert_image(image, options) for image in with_channels])


def _describe(image: Array) -> str:
    height, width, channels = image.shape
    depth = "" if image.dtype == np.uint8 else "16-bit "
    return f"{height}x{width} {depth}{'grey' if channels == 1 else 'colour'}"


def _pillow() -> tuple[ModuleType, ModuleType]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtraError("reading image files", "pillow", "images") from None
    return Image, ImageOps
