"""ncnn: inference alone, one image at a time, its threads within the image; pnnx converts.

It keeps float32 (no fp16 or bfloat16 storage), and may use Winograd's algorithm, as minicnn does.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ncnn
import numpy as np

from peers.jobs import InferenceJob, Peer
from peers.layout import to_nchw, to_onnx


def _net(job: InferenceJob) -> "ncnn.Net":
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    height, width, channels = job.network.input_shape
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.onnx").write_bytes(to_onnx(job.network, job.params))
        shape = f"inputshape=[1,{channels},{height},{width}]"
        command = [Path(sys.executable).with_name("pnnx"), "net.onnx", shape, "fp16=0"]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        net.load_param(f"{folder}/net.ncnn.param")
        net.load_model(f"{folder}/net.ncnn.bin")
    return net


def inference(job: InferenceJob) -> Callable[[], np.ndarray] | None:
    """One extractor an image, as its users write it; larger batches are not what it is for."""
    if len(job.images) > 1:
        return None
    net, x = _net(job), to_nchw(job.images)
    image = ncnn.Mat(x[0])

    def call() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", image)
        return np.array(extractor.extract("out0")[1])[None]

    call.keeps_alive = x  # type: ignore[attr-defined]  # the Mat holds an address alone
    return call


def peers() -> list[Peer]:
    """One setting."""
    return [Peer("ncnn", lambda job: None, inference)]
