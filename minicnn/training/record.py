"""What `train --record` keeps: the trajectory of the weights, and the health of every tensor and layer.

The trajectory is kept in few dimensions: w[t] ≈ w[0] + c[t] · B, where the rows of B [rank, P] are
orthonormal. A new point is projected on B; what is left of it becomes another row, and beyond
`RANK` rows the singular values of all c say which direction is given up, that in which the weights
went least far. Source: Brand, "Fast low-rank modifications of the thin singular value
decomposition", Linear Algebra and its Applications 2006.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.backends import cpu
from minicnn.data.normalization import scaled
from minicnn.errors import MinicnnError, ModelFileError
from minicnn.network.network import Network
from minicnn.storage import check_types, parse_json, read_tensors, write_atomically, write_tensors
from minicnn.training.checkpoint import Counters
from minicnn.training.events import Recorded

RANK = 6  # directions kept: the file is then about as large as `last.safetensors` of Adam
STEPS_PER_RECORD = 8  # that are sampled: one alone says little about an epoch
IMAGES = 16, 128  # fewest and most that activations are looked at on
BATCH_SIZE = 64  # images that pass the layers together
# one image is looked at for so many that are trained on, which keeps the cost low
IMAGES_PER_SAMPLE = 128
PATH_FILE, LINES_FILE = "record.safetensors", "record.jsonl"


@dataclass(frozen=True)
class Record:
    """What a recorded run kept: a line and a point of the trajectory for the weights at the
    start and each time after.

    ``first`` [P] are the weights at the start, ``basis`` [rank, P] the directions that are kept and
    ``path`` [points, rank] the coordinates in them: the weights were about ``first + path[i] @
    basis``. P is the network's `flat_size`.
    """

    lines: list[Recorded]
    first: np.ndarray
    basis: np.ndarray
    path: np.ndarray

    def curves(self, figures: str) -> dict[str, list[float]]:
        """One of the figures of a `Recorded` by name, a number per line but the first; of tensors,
        those of weights alone."""
        lines = [getattr(line, figures) for line in self.lines[1:]]
        names = [name for name in (lines[-1] if lines else {}) if not name.endswith(".bias")]
        return {
            name: [math.nan if line.get(name) is None else line[name] for line in lines]
            for name in names
        }

    def principal_directions(self, count: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(directions [count, P], coordinates [points, count], fractions [count]) of the trajectory,
        seen from its end.

        The directions are orthonormal and explain most of the differences w[t] − w[end]; the
        fractions, from 0 to 1, say how much of their squares. The end has the coordinates 0. Source:
        Li et al., "Visualizing the loss landscape of neural nets", NeurIPS 2018, section 7. Raises
        `MinicnnError` when the trajectory has fewer dimensions.
        """
        differences = self.path - self.path[-1]
        if np.linalg.matrix_rank(differences) < count:
            raise MinicnnError(
                f"the record has {len(self.path)} points, too few for {count} principal directions: "
                "train for more epochs, or record more often (--record=EVERY)"
            )
        _, singular, rows = np.linalg.svd(differences, full_matrices=False)
        coordinates = differences @ rows[:count].T
        fractions = singular[:count] ** 2 / (singular**2).sum()
        return (rows[:count] @ self.basis).astype(self.first.dtype), coordinates, fractions


def load_record(folder: Path | str) -> Record:
    """The record in a run folder; raises `ModelFileError`, which names the file, if it is missing
    or damaged."""
    folder = Path(folder)
    file = folder / PATH_FILE
    if not file.exists():
        raise ModelFileError(f"{file}: no such file; `minicnn train --record` writes one")
    tensors, _ = read_tensors(file, "record")
    try:
        lines = [
            Recorded(**parse_json(line))
            for line in (folder / LINES_FILE).read_text("utf-8").splitlines()
        ]
        for line in lines:
            kinds: dict[str, Any] = dict.fromkeys(vars(line), dict)
            check_types(vars(line), **kinds | {"epoch": (int, float), "step": int})
            figures = [
                each for part in vars(line).values() if type(part) is dict for each in part.values()
            ]
            if not all(each is None or isinstance(each, int | float) for each in figures):
                raise ValueError(f"step {line.step} has a figure that is not a number")
        points = {int(step): point for point, step in enumerate(tensors["steps"])}
        lines = [
            line for line in lines if line.step in points
        ]  # a kill may have come between the two files
        path = tensors["path"][[points[line.step] for line in lines]]
        return Record(lines, tensors["first"], tensors["basis"], path)
    except OSError as error:
        raise ModelFileError(f"{folder / LINES_FILE} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ModelFileError(f"{folder} does not hold a usable record: {error}") from None


class Recorder:
    """Records a run: some of its steps, and the weights and activations after every ``every`` steps
    and each epoch.

    ``images`` [N, H·W·C], of which ``train`` has the numbers that are trained on, are scaled by
    ``scale`` (`channel_scale`). Recording does not change the run.
    """

    def __init__(
        self,
        network: Network,
        params: np.ndarray,
        images: np.ndarray,
        train: np.ndarray,
        scale: float | np.ndarray,
        every: int,
        batches: int,
    ):
        self.network, self.params = network, params
        self.every, self.batches = every, batches
        count = max(
            IMAGES[0],
            min(IMAGES[1], len(train) * min(every, batches) // batches // IMAGES_PER_SAMPLE),
        )
        chosen = train[np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)]
        looked_at = images[chosen].reshape(-1, *network.input_shape)
        self._images = scaled(looked_at, scale, params.dtype)
        self._passes = cpu.Passes(network, params, min(BATCH_SIZE, len(chosen)), by_operation=True)
        self._before = np.empty_like(params)
        self._sampling, self._samples = False, 0
        self._specs = [spec for spec in network.parameters if spec.kind != "state"]
        self._sums = np.zeros(
            (3, len(self._specs))
        )  # norms of the gradients, changes and weights looked at
        self.record = Record(
            [], params.copy(), np.empty((0, len(params)), params.dtype), np.empty((0, 0))
        )

    def compile(self) -> None:
        """Compile what a record line needs, or load it from the cache."""
        self._norms(self._before)
        self._activations()

    def begin(self, folder: Path | None, counters: Counters) -> Iterator[Recorded]:
        """Go on with the record in ``folder`` where a resumed run is; else yield the line of the
        weights at the start."""
        if counters.optimizer_step and folder is not None and (folder / PATH_FILE).exists():
            record = load_record(folder)
            kept = sum(line.step <= counters.optimizer_step for line in record.lines)
            self.record = replace(record, lines=record.lines[:kept], path=record.path[:kept])
        if not self.record.lines:
            yield from self._line(counters)

    def before_step(self, counters: Counters) -> None:
        """Called before each step."""
        left = self._steps_left(counters.optimizer_step + 1, counters.batch + 1)
        self._sampling = left % max(1, min(self.every, self.batches) // STEPS_PER_RECORD) == 0
        if self._sampling:
            self._before[:] = self.params

    def after_step(self, grads: np.ndarray, counters: Counters) -> Iterator[Recorded]:
        """Called after each step, with the gradient ``grads`` [P]; yields a line when one is
        due."""
        if not self._sampling:
            return
        self._sums += [
            self._norms(vector) for vector in (grads, self.params - self._before, self.params)
        ]
        self._samples += 1
        if self._steps_left(counters.optimizer_step, counters.batch) == 0:
            yield from self._line(counters)
            self._sums[:], self._samples = 0, 0

    def _steps_left(self, step: int, batch: int) -> int:
        """The number of steps from ``step``, the one of ``batch``, until the next line is due."""
        return min(-step % self.every, self.batches - batch)

    def save(self, folder: Path) -> None:
        """Write `record.safetensors` and `record.jsonl`."""
        record, steps = self.record, np.array([line.step for line in self.record.lines])
        tensors = {
            "steps": steps,
            "first": record.first,
            "basis": record.basis,
            "path": record.path,
        }
        lines = [json.dumps(vars(line), allow_nan=False) + "\n" for line in record.lines]
        write_tensors(folder / PATH_FILE, "record", tensors, {})
        write_atomically(folder / LINES_FILE, "".join(lines).encode())

    def _norms(self, vector: np.ndarray) -> list[float]:
        return [cpu.norm(vector[spec.offset : spec.offset + spec.size]) for spec in self._specs]

    def _line(self, counters: Counters) -> Iterator[Recorded]:
        """The line for the present state; None if the weights are not finite, since the run is
        about to end."""
        if not np.isfinite(self.params).all():
            return
        grads, changes, weights = self._sums
        tensors = [spec.name for spec in self._specs]

        def by_tensor(figures: Iterable[float]) -> dict[str, float | None]:
            return {name: _figure(figure) for name, figure in zip(tensors, figures, strict=True)}

        with np.errstate(divide="ignore", invalid="ignore"):  # weights that are all 0
            line = Recorded(
                epoch=counters.epoch - 1 + counters.batch / self.batches,
                step=counters.optimizer_step,
                gradient_norm=by_tensor(grads / self._samples) if self._samples else {},
                update_ratio=by_tensor(changes / weights) if self._samples else {},
                weight_norm=by_tensor(self._norms(self.params)),
                **self._activations(),
            )
        self.record = _with_point(
            replace(self.record, lines=[*self.record.lines, line]), self.params
        )
        yield line

    def _activations(self) -> dict[str, Any]:
        """Mean and deviation of the layers' outputs, and the fraction of channels of ReLU layers that
        are 0 everywhere."""
        plan, images, names = self._passes.plan, self._images, self.network.layer_names
        table, nodes = plan.table, plan.nodes
        sums, squares = np.zeros(len(table)), np.zeros(len(table))
        # The ReLU before a max pooling is done by that.
        relus = {
            i: names[node.layers[0]]
            for i, node in enumerate(nodes)
            if node.operation == "relu" or node.fields.get("relu")
        }
        largest = {i: np.zeros(table[i]["output_channels"]) for i in relus}
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(images), BATCH_SIZE):
                for i, y in enumerate(
                    self._passes.forward_by_operation(images[start : start + BATCH_SIZE])
                ):
                    sums[i] += y.sum()
                    squares[i] += cpu.norm(y.reshape(-1)) ** 2
                    if i in relus:
                        np.maximum(
                            largest[i], y.reshape(-1, len(largest[i])).max(axis=0), out=largest[i]
                        )
            means = sums / (len(images) * table["output_size"])
            deviations = np.sqrt(
                np.maximum(squares / (len(images) * table["output_size"]) - means**2, 0)
            )
        layers = [names[node.layers[-1]] for node in nodes]
        mean, deviation = (
            {name: _figure(figure) for name, figure in zip(layers, figures, strict=True)}
            for figures in (means, deviations)
        )
        dead = {name: float(np.mean(largest[i] <= 0)) for i, name in relus.items()}
        return {"activation_mean": mean, "activation_std": deviation, "dead": dead}


def _figure(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _with_point(record: Record, params: np.ndarray) -> Record:
    """``record`` with another point of the trajectory."""
    rest = params - record.first
    distance = cpu.norm(rest)
    # Products by einsum and axpy: the threads of BLAS would get in the way of those that train.
    basis, coordinates = record.basis, np.zeros(len(record.basis))
    for _ in range(2):  # once leaves rounding errors in the directions that are there
        along = np.einsum("rp,p->r", basis, rest)
        _subtract(rest, along, basis)
        coordinates += along
    left = cpu.norm(rest)
    path = np.vstack([record.path, coordinates])
    if left > 1e-5 * distance:
        with np.errstate(over="ignore"):  # of weights that diverge, which the run tells
            basis = np.vstack([basis, rest / rest.dtype.type(left)])
        path = np.column_stack([path, np.zeros(len(path))])
        path[-1, -1] = left
    if len(basis) > RANK:
        _, _, rows = np.linalg.svd(path, full_matrices=False)
        rotated = np.zeros((RANK, basis.shape[1]), basis.dtype)
        for row, out in zip(rows, rotated, strict=False):
            _subtract(out, -row, basis)
        basis, path = rotated, path @ rows[:RANK].T
    return replace(record, basis=basis, path=path)


def _subtract(rest: np.ndarray, factors: np.ndarray, basis: np.ndarray) -> None:
    """rest ← rest − factors · basis."""
    for factor, row in zip(factors, basis, strict=True):
        cpu.axpy(-factor, row, rest)
