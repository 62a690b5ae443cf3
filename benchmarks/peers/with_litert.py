"""LiteRT (TensorFlow Lite) with XNNPACK, its default on a CPU: inference alone, in float32.
TensorFlow converts."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from minicnn import Network
from peers.jobs import InferenceJob, Peer
from peers.keras_graph import to_keras
from peers.layout import scaled

_CONVERTED: WeakKeyDictionary[Network, bytes] = WeakKeyDictionary()  # seconds each


def converted(network: Network, params: np.ndarray) -> bytes:
    """The network with these weights as a file of LiteRT, whose images are [N, H, W, C]."""
    converter = tf.lite.TFLiteConverter.from_keras_model(to_keras(network, params))
    with redirect_stdout(io.StringIO()):  # on which it describes the model
        return converter.convert()


def inference(job: InferenceJob) -> Callable[[], np.ndarray]:
    """`Interpreter.invoke` on a ready-made float32 batch."""
    if job.network not in _CONVERTED:
        _CONVERTED[job.network] = converted(job.network, job.params)
    content, x = _CONVERTED[job.network], scaled(job.images)
    interpreter = Interpreter(model_content=content, num_threads=job.threads)
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)

    def call() -> np.ndarray:
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    return call


def peers() -> list[Peer]:
    """One setting."""
    return [Peer("litert", lambda job: None, inference)]
