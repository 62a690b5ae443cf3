"""Images without labels, as `predict` takes them."""

import math
from pathlib import Path

import numpy as np

from minicnn.data.archive import ZIP_MAGIC
from minicnn.data.dataset import Array, as_images, channels_last, check_values
from minicnn.data.idx import GZIP_MAGIC, is_emnist, read_idx, say_upright
from minicnn.data.images import KINDS, MAGICS, convert_images, read_image
from minicnn.data.npz import npz_keys, read_arrays
from minicnn.data.reading import DEFAULTS, ReadOptions, reading
from minicnn.errors import DataError

_NPZ_KEYS = ("x_test", "x", "images", "x_train")


def load_inputs(
    path: str | Path,
    options: ReadOptions = DEFAULTS,
    brightest: float = 1.0,
) -> tuple[list[str], Array]:
    """Read images and a name for each; the content of the file decides what it is, not its name.

    ``path`` is an image, NPY, NPZ (x_test, x, images, x_train, or its only array) or IDX file;
    arrays are [N, H, W] or [N, H, W, C]. Returns [N, H, W, C], whole numbers in their own
    dtype and else float32, unscaled, converted as the ``options`` say. The 16 bits of an
    image file become floats, all of them ``brightest``. Raises `DataError`, naming the file.
    """
    path = Path(path)
    with reading(path), path.open("rb") as file:
        start = file.read(6)
    if start.startswith(MAGICS):
        image = read_image(path)[np.newaxis]
        if image.dtype == np.uint16:
            image = image.astype(np.float32) / np.float32(65535) * np.float32(brightest)
        return [str(path)], convert_images(image, options)
    array = channels_last(_read_array(path, start, options.data_gb), options.channels)
    images = as_images(str(path), array)
    if array.dtype.kind in "iu":
        images = array.reshape(images.shape)  # the model scales them by their dtype
    if images.size == 0:
        raise DataError(f"{path} holds no image")
    check_values(str(path), images, seen=(-math.inf, math.inf))  # what else, the model says
    return [f"{path}[{i}]" for i in range(len(images))], convert_images(images, options)


def _read_array(path: Path, start: bytes, data_gb: float) -> Array:
    if start == b"\x93NUMPY":
        with reading(path):
            array: Array = np.load(path, allow_pickle=False)
        return array
    if start.startswith(ZIP_MAGIC):
        keys = npz_keys(path)
        key = next((key for key in _NPZ_KEYS if key in keys), keys[0] if len(keys) == 1 else None)
        if key is None:
            raise DataError(
                f"{path} needs one of the keys {', '.join(_NPZ_KEYS)} (found: {', '.join(keys)})"
            )
        return read_arrays(path, key, data_gb=data_gb)[key]
    if start.startswith((b"\0\0", GZIP_MAGIC)):
        if is_emnist(path):
            say_upright(path)
        return read_idx(path, data_gb)
    raise DataError(f"{path} is not an NPY, NPZ, IDX, {KINDS} file")
