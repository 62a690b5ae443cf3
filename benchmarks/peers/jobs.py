"""What every framework is asked to do: jobs as plain data, and a peer as two functions that prepare
one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minicnn import Network


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """Train with cross-entropy and Adam (its defaults), batch after batch of ``images``, round and
    round."""

    network: Network
    params: np.ndarray  # initial weights, minicnn's flat vector
    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int64 [N]
    batch: int
    threads: int

    @property
    def batches(self) -> int:
        """Whole batches in the data."""
        return len(self.images) // self.batch


@dataclass(frozen=True, eq=False)
class InferenceJob:
    """The logits of one batch of images."""

    network: Network
    params: np.ndarray
    images: np.ndarray  # uint8 [batch, H, W, C]
    threads: int


@dataclass(frozen=True)
class Peer:
    """A framework in one setting. Each function prepares all it can and returns the call to be
    timed.

    ``training(job)`` returns a call that makes the next step and returns its mean loss;
    ``inference(job)`` one that returns logits [batch, outputs]. Peers get their batches as float32
    in the layout they like best, made beforehand; minicnn gathers and scales uint8 images within
    its call. None: the peer cannot do this job. ``in_njit_loop(job)``, of minicnn alone: the images
    one by one in a compiled loop. ``rounding``: the relative error that a lower precision than
    float32 brings; such a peer is stated apart, and is never the best.
    """

    name: str
    training: Callable[[TrainingJob], Callable[[], float] | None]
    inference: Callable[[InferenceJob], Callable[[], np.ndarray] | None]
    in_njit_loop: Callable[[InferenceJob], Callable[[], np.ndarray]] | None = None
    rounding: float = 0.0
