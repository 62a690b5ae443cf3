"""PNG and JPEG files as uint8 arrays, and images brought to another size or to grey."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from minicnn.data.dataset import Array
from minicnn.data.reading import reading
from minicnn.errors import DataError, MissingExtraError

_SUFFIXES = {".png", ".jpg", ".jpeg"}
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L


def list_images(folder: Path) -> list[Path]:
    """Return the PNG and JPEG files in ``folder``, sorted by name; raise `DataError` if there is none."""
    with reading(folder):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        raise DataError(f"{folder} holds no PNG or JPEG file")
    return files


def read_image(path: Path) -> Array:
    """Read one file as uint8 [H, W, 1] if it is grey, [H, W, 3] if it has colours or a palette.

    Transparency is dropped; 16 bits a pixel become 8. Raises `DataError` for a file that is not a whole PNG or JPEG,
    `MissingExtraError` without Pillow.
    """
    pillow = _pillow()
    with reading(path):
        try:
            image = pillow.open(path, formats=("PNG", "JPEG"))
        except pillow.UnidentifiedImageError:
            raise DataError(f"{path} is not a PNG or JPEG image") from None
        with image:
            if image.mode.startswith("I"):
                pixels = (np.asarray(image) // 257).astype(np.uint8)
            elif image.mode in ("1", "L", "LA"):
                pixels = np.asarray(image.convert("L"))
            elif "transparency" in image.info:
                pixels = np.asarray(image.convert("RGBA"))[..., :3]
            else:
                pixels = np.asarray(image.convert("RGB"))
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def read_images(paths: Sequence[Path]) -> Array:
    """Read files of one size and one number of channels into one uint8 array [N, H, W, C]."""
    first = read_image(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    for i, path in enumerate(paths):
        image = read_image(path)
        if image.shape != first.shape:
            raise DataError(
                f"{path} is {_describe(image)}, but {paths[0]} is {_describe(first)}: bring all images to one size and "
                "to grey or colour"
            )
        images[i] = image
    return images


def convert_image(image: Array, resize: tuple[int, int] | None, grayscale: bool) -> Array:
    """Return uint8 or float32 [H, W, C] at the size ``resize`` (height, width), bilinear, and grey if asked to."""
    if grayscale and image.shape[2] != 1:
        if image.shape[2] != 3:
            raise DataError(f"an image of {image.shape[2]} channels cannot be made grey: that needs 3")
        grey = image @ _LUMA
        image = (np.rint(grey) if image.dtype == np.uint8 else grey).astype(image.dtype)[..., np.newaxis]
    if resize and image.shape[:2] != resize:
        size, pillow = (resize[1], resize[0]), _pillow()
        channels = [pillow.fromarray(channel) for channel in np.ascontiguousarray(image.transpose(2, 0, 1))]
        image = np.stack([np.asarray(c.resize(size, pillow.Resampling.BILINEAR)) for c in channels], axis=-1)
    return image


def convert_images(images: Array, resize: tuple[int, int] | None, grayscale: bool) -> Array:
    """Apply `convert_image` to each of [N, H, W, C]."""
    if not (resize or grayscale):
        return images
    return np.stack([convert_image(image, resize, grayscale) for image in images])


def _describe(image: Array) -> str:
    height, width, channels = image.shape
    return f"{height}x{width} {'grey' if channels == 1 else 'colour'}"


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("reading PNG and JPEG files", "pillow", "images") from None
    return Image
