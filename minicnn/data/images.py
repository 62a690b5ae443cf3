"""Image files as uint8 or uint16 arrays, and images brought to another size or to grey."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minicnn.data.dataset import Array
from minicnn.data.reading import note, reading
from minicnn.errors import DataError, MissingExtraError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAGICS = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
KINDS = "PNG, JPEG, WebP, BMP, TIFF or GIF"
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L


def list_images(folder: Path) -> list[Path]:
    """Return the image files in ``folder`` and the folders in it, by their suffix, sorted by name.

    What has another suffix is counted in a line. Raises `DataError` if there is no image.
    """
    with reading(folder):
        inside = sorted(path for path in folder.rglob("*") if path.is_file())
    visible = [
        path
        for path in inside
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    files = [path for path in visible if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder} holds no {KINDS} file")
    if len(files) < len(visible):
        skipped = Counter(
            path.suffix.lower() or "no suffix" for path in visible if path not in set(files)
        )
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
        note(f"{folder}: files that are not read as images: {counts}")
    return files


def read_image(path: Path) -> Array:
    """Read one file as uint8 [H, W, 1] if it is grey (uint16 if that has 16 bits), [H, W, 3] if it
    has colours or a palette.

    It is upright as its EXIF orientation says, transparent parts lie on white (on black, if all
    would be white), and of several frames the first one is taken. Raises `DataError` for a file
    that is not a whole image, `MissingExtraError` without Pillow.
    """
    pillow, operations = _pillow()
    with reading(path):
        try:
            image = pillow.open(path, formats=("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"))
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


def read_images(paths: Sequence[Path]) -> Array:
    """Read files of one size, one number of channels and one depth into one array [N, H, W, C]."""
    first = read_image(paths[0])
    images = np.empty((len(paths), *first.shape), first.dtype)
    for i, path in enumerate(paths):
        image = read_image(path)
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            raise DataError(
                f"{path} is {_describe(image)}, but {paths[0]} is {_describe(first)}: bring all images to one size and "
                "to grey or colour"
            )
        images[i] = image
    return images


def convert_image(image: Array, resize: tuple[int, int] | None, grayscale: bool) -> Array:
    """Return uint8 or float32 [H, W, C] at the size ``resize`` (height, width), bilinear, and grey
    if asked to."""
    if grayscale and image.shape[2] != 1:
        if image.shape[2] != 3:
            raise DataError(
                f"an image of {image.shape[2]} channels cannot be made grey: that needs 3"
            )
        grey = image @ _LUMA
        image = (np.rint(grey) if image.dtype == np.uint8 else grey).astype(image.dtype)[
            ..., np.newaxis
        ]
    if resize and image.shape[:2] != resize:
        size, (pillow, _) = (resize[1], resize[0]), _pillow()
        channels = [
            pillow.fromarray(channel) for channel in np.ascontiguousarray(image.transpose(2, 0, 1))
        ]
        image = np.stack(
            [np.asarray(c.resize(size, pillow.Resampling.BILINEAR)) for c in channels], axis=-1
        )
    return image


def convert_images(images: Array, resize: tuple[int, int] | None, grayscale: bool) -> Array:
    """Apply `convert_image` to each of [N, H, W, C]."""
    if not (resize or grayscale):
        return images
    return np.stack([convert_image(image, resize, grayscale) for image in images])


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
