"""OpenVINO: inference alone, one stream that answers as soon as it can, in float32."""

from collections.abc import Callable

import numpy as np
import openvino

from peers.jobs import InferenceJob, Peer
from peers.layout import to_nchw, to_onnx


def inference(job: InferenceJob) -> Callable[[], np.ndarray]:
    """`InferRequest.infer` on a ready-made float32 batch that it shares."""
    core, x = openvino.Core(), to_nchw(job.images)
    model = core.read_model(to_onnx(job.network, job.params))
    model.reshape(x.shape)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": job.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def call() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data

    call.keeps_alive = x  # type: ignore[attr-defined]
    return call


def peers() -> list[Peer]:
    """One setting."""
    return [Peer("openvino", lambda job: None, inference)]
