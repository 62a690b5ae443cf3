"""onnxruntime: inference alone, all graph optimizations, a fixed batch size, buffers bound once."""

from collections.abc import Callable

import numpy as np
import onnxruntime

from peers.jobs import InferenceJob, Peer
from peers.layout import to_nchw, to_onnx


def _session(job: InferenceJob) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_free_dimension_override_by_name("N", len(job.images))
    model = to_onnx(job.network, job.params)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(job: InferenceJob) -> Callable[[], np.ndarray]:
    """`InferenceSession.run` on a ready-made float32 batch."""
    session, feed = _session(job), {"input": to_nchw(job.images)}
    return lambda: session.run(None, feed)[0]


def run_bound(job: InferenceJob) -> Callable[[], np.ndarray]:
    """`run_with_iobinding`: input and output bound once, which saves a part of the cost of a
    call."""
    session, x = _session(job), to_nchw(job.images)
    logits = np.empty((len(x), job.network.outputs), np.float32)
    binding = session.io_binding()
    binding.bind_input("input", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    (output,) = session.get_outputs()
    binding.bind_output(output.name, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)

    def call() -> np.ndarray:
        session.run_with_iobinding(binding)
        return logits

    call.keeps_alive = x  # type: ignore[attr-defined]  # the binding holds an address alone
    return call


def peers() -> list[Peer]:
    """Called as everybody does, and with bound buffers."""
    return [
        Peer("onnxruntime", lambda job: None, run),
        Peer("onnxruntime bound", lambda job: None, run_bound),
    ]
