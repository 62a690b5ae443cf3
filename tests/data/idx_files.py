"""Writes IDX for the tests."""

import gzip
import struct
from pathlib import Path

import numpy as np

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path: Path, array: np.ndarray) -> Path:
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_idx_folder(
    folder: Path, dot: str = "-", suffix: str = "", shape: tuple[int, ...] = (4, 5)
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 20), ("t10k", 10)):
        images = np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)
        write_idx(folder / f"{prefix}-images{dot}idx{images.ndim}-ubyte{suffix}", images)
        write_idx(
            folder / f"{prefix}-labels{dot}idx1-ubyte{suffix}",
            (np.arange(count) % 10).astype(np.uint8),
        )
    return folder
