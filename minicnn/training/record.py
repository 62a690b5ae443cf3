"""What `train --record` keeps: the way of the weights, and the health of every tensor and layer.

The way is kept in few dimensions: w[t] ≈ w[0] + c[t] · B, where the rows of B [rank, P] are orthonormal. A new point is
projected on B; what is left of it becomes another row, and beyond `RANK` rows the singular values of all c say which
direction is given up, that in which the weights went least far. Source: Brand, "Fast low-rank modifications of the thin
singular value decomposition", Linear Algebra and its Applications 2006.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minicnn.backends import cpu
from minicnn.errors import MinicnnError, ModelFileError
from minicnn.network.network import Network
from minicnn.plan import RELU
from minicnn.storage import read_tensors, write_atomically, write_tensors
from minicnn.training.events import Recorded

RANK = 6  # directions kept: the file is then about as large as `last.safetensors` of Adam
STEPS_A_LINE = 8  # that are looked at: one alone says little about an epoch
IMAGES = 16, 128  # fewest and most that activations are looked at on
IMAGES_A_LINE = 32  # one image is looked at for so many that are trained on, which keeps the cost low
PATH_FILE, LINES_FILE = "record.safetensors", "record.jsonl"


@dataclass(frozen=True)
class Record:
    """What a recorded run kept: a line and a point of the way for the weights at the start and each time after.

    ``first`` [P] are the weights at the start, ``basis`` [rank, P] the directions that are kept and ``path``
    [points, rank] the coordinates in them, so that the weights were about ``first + path[i] @ basis``. ``distances``
    [points] are the exact L2 distances from ``first``. P is the network's `flat_size`.
    """

    lines: list[Recorded]
    first: np.ndarray
    basis: np.ndarray
    path: np.ndarray
    distances: np.ndarray

    def principal_directions(self, count: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(directions [count, P], coordinates [points, count], shares [count]) of the way, seen from its end.

        The directions are orthonormal and explain most of the differences w[t] − w[end]; the shares, from 0 to 1, say how
        much of their squares. The end has the coordinates 0. Source: Li et al., "Visualizing the loss landscape of neural
        nets", NeurIPS 2018, section 7. Raises `MinicnnError` when the way has fewer dimensions.
        """
        differences = self.path - self.path[-1]
        if np.linalg.matrix_rank(differences) < count:
            raise MinicnnError(f"the record has {len(self.path)} points, too few for {count} principal directions: "
                               "train for more epochs, or record more often (--record=EVERY)")  # fmt: skip
        _, singular, rows = np.linalg.svd(differences, full_matrices=False)
        coordinates = differences @ rows[:count].T
        shares = singular[:count] ** 2 / (singular**2).sum()
        return (rows[:count] @ self.basis).astype(self.first.dtype), coordinates, shares


def load_record(folder: Path | str) -> Record:
    """The record in a run folder; raises `ModelFileError`, which names the file, if it is missing or damaged."""
    folder = Path(folder)
    path = folder / PATH_FILE
    if not path.exists():
        raise ModelFileError(f"{path}: no such file; `minicnn train --record` writes one")
    tensors, _ = read_tensors(path, "record")
    try:
        lines = [Recorded(**json.loads(line)) for line in (folder / LINES_FILE).read_text("utf-8").splitlines()]
        points = {int(step): point for point, step in enumerate(tensors["steps"])}
        lines = [line for line in lines if line.step in points]  # a kill may have come between the two files
        kept = [points[line.step] for line in lines]
        return Record(lines, tensors["first"], tensors["basis"], tensors["path"][kept], tensors["distances"][kept])
    except OSError as error:
        raise ModelFileError(f"{folder / LINES_FILE} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{folder} does not hold a usable record: {error}") from None
