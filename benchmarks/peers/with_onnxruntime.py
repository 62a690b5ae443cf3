"""onnxruntime: inference alone, all graph optimizations, a fixed batch size, buffers bound once."""

from collections.abc import Callable

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from minicnn import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU
from peers.jobs import InferenceJob, Peer
from peers.layout import channels_first, to_nchw


def to_onnx(network: Network, params: np.ndarray, batch: int) -> bytes:
    """The same network with the same weights as a serialized ONNX model for ``batch`` NCHW
    images."""
    nodes, initializers, value = [], [], "x"
    for index, (layer, tensors) in enumerate(channels_first(network, params)):
        names = []
        for name, tensor in tensors.items():
            names.append(f"{name}{index}")
            initializers.append(numpy_helper.from_array(tensor, names[-1]))
        last = index == len(network.layers) - 1
        inputs, output = [value, *names], "logits" if last else f"y{index}"
        if isinstance(layer, Conv2d):
            padding = (
                {"auto_pad": "SAME_UPPER"} if layer.padding == "same" else {"auto_pad": "VALID"}
            )
            node = helper.make_node(
                "Conv", inputs, [output], kernel_shape=list(layer.kernel_size), **padding
            )
        elif isinstance(layer, Dense):
            node = helper.make_node("Gemm", inputs, [output], transB=1)
        elif isinstance(layer, MaxPool2d):
            node = helper.make_node(
                "MaxPool",
                inputs,
                [output],
                kernel_shape=list(layer.kernel_size),
                strides=list(layer.stride),
            )
        elif isinstance(layer, ReLU):
            node = helper.make_node("Relu", inputs, [output])
        elif isinstance(layer, Flatten):
            node = helper.make_node("Flatten", inputs, [output])
        else:
            raise TypeError(f"{layer} has no counterpart here")
        nodes.append(node)
        value = output
    height, width, channels = network.input_shape
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, network.outputs])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def _session(job: InferenceJob) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = to_onnx(job.network, job.params, len(job.images))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(job: InferenceJob) -> Callable[[], np.ndarray]:
    """`InferenceSession.run` on a ready-made float32 batch."""
    session, feed = _session(job), {"x": to_nchw(job.images)}
    return lambda: session.run(None, feed)[0]


def run_bound(job: InferenceJob) -> Callable[[], np.ndarray]:
    """`run_with_iobinding`: input and output bound once, which saves a part of the cost of a
    call."""
    session, x = _session(job), to_nchw(job.images)
    logits = np.empty((len(x), job.network.outputs), np.float32)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)

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
