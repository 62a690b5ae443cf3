"""What an exported model weighs and takes: `python benchmarks/exports.py`.

lenet5 and resnet8 as minicnn runs them, as one C99 file (compiled with -O3 for this processor), as
a folder of NumPy alone, and, where they are installed, as ONNX in onnxruntime and as a LiteRT file
(which TensorFlow converts). Each is first checked to give minicnn's logits. One image a call, on one
thread, in turns (`timing.py`): medians of microseconds, and how long export and import take.
"""

import environment  # noqa: F401  # isort: skip  # sets variables that the others' imports read
import ctypes
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from networks import NETWORKS, images_for, initial_weights
from peers import with_minicnn
from peers.jobs import InferenceJob
from peers.layout import scaled
from rich.console import Console
from rich.table import Table
from timing import Contestant, Effort, measure

from minicnn import Model, from_onnx
from minicnn.formats.c_out import write_c
from minicnn.formats.numpy_out import write_numpy

_IMAGES = 64  # of one call of the compiled loop
_NAMES = ("LeNet-5", "resnet8")

Call = Callable[[], np.ndarray]


def compiled_c(model: Model, image: np.ndarray, folder: Path) -> tuple[Call, dict[str, int]]:
    """``predict`` of the C file, and the bytes of its source and of its code with its weights."""
    source, library = folder / "net.c", folder / "net.so"
    size = write_c(model, source)
    command = ["cc", "-std=c99", "-O3", "-march=native", "-ffast-math", "-fPIC"]
    subprocess.run([*command, "-c", source, "-o", folder / "net.o"], check=True)
    subprocess.run(["cc", "-shared", folder / "net.o", "-lm", "-o", library], check=True)
    predict, logits = ctypes.CDLL(str(library)).predict, np.empty((1, model.network.outputs), "f4")
    arguments = ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(logits.ctypes.data)

    def call() -> np.ndarray:
        predict(*arguments)
        return logits

    sizes = subprocess.run(["size", folder / "net.o"], capture_output=True, text=True, check=True)
    text, data, bss = map(int, sizes.stdout.splitlines()[1].split()[:3])
    return call, {"source": size, "code and weights": text + data, "buffers": bss}


def contestants(name: str, folder: Path) -> tuple[list[Contestant], dict[str, dict[str, int]]]:
    """Everything that computes the network, and its sizes in bytes by name."""
    network, params = NETWORKS[name], initial_weights(name)
    images = images_for(network.input_shape)[0]
    one = InferenceJob(network, params, images[:1], 1)
    many = InferenceJob(network, params, images[:_IMAGES], 1)
    model = Model(network, params, tuple(map(str, range(network.outputs))))
    image = scaled(images[:1])
    model.save(folder / "model.safetensors")
    loop = with_minicnn.inference_in_njit_loop(many)
    sizes: dict[str, dict[str, int]] = {
        "minicnn": {"model.safetensors": (folder / "model.safetensors").stat().st_size}
    }
    calls: dict[str, Call] = {"minicnn": with_minicnn.inference(one), "minicnn, njit loop": loop}
    calls["C"], sizes["C"] = compiled_c(model, image, folder)
    sizes["numpy"] = {"folder": write_numpy(model, folder / "numpy")}
    predict: Any = runpy.run_path(str(folder / "numpy" / "predict.py"))["predict"]
    calls["numpy"] = lambda: predict(image)
    if find_spec("onnxruntime") and find_spec("onnx"):
        from peers.layout import to_onnx
        from peers.with_onnxruntime import run

        begun = time.perf_counter()
        content = to_onnx(network, params)
        exported = time.perf_counter() - begun
        (folder / "net.onnx").write_bytes(content)
        begun = time.perf_counter()
        from_onnx(folder / "net.onnx")
        took = f"{exported * 1e3:.0f} ms, read in {(time.perf_counter() - begun) * 1e3:.0f} ms"
        print(f"{name}: written as ONNX in {took}", file=sys.stderr)
        calls["onnxruntime"], sizes["onnxruntime"] = run(one), {"net.onnx": len(content)}
    if find_spec("tensorflow") and find_spec("ai_edge_litert"):
        from peers import with_litert

        calls["litert"] = with_litert.inference(one)
        sizes["litert"] = {"net.tflite": len(with_litert.converted(network, params))}
    expected = model.logits(images[:1])
    for title, call in calls.items():
        difference = np.abs(call()[:1] - expected).max() / np.abs(expected).max()
        if not difference <= 1e-5:
            raise SystemExit(f"{name}: {title} differs by a relative {difference:.1e}")
    units = {"minicnn, njit loop": _IMAGES}
    return [Contestant(title, call, units.get(title, 1)) for title, call in calls.items()], sizes


def main() -> None:
    """Measure and print a table for each network."""
    effort = Effort(repetitions=7, turn=0.04)
    for name in _NAMES:
        with tempfile.TemporaryDirectory() as folder:
            made, sizes = contestants(name, Path(folder))
            seconds = measure(made, effort)
        table = Table("", "bytes", "µs an image", title=name, title_justify="left")
        for title, times in seconds.items():
            said = ", ".join(f"{what} {size:,}" for what, size in sizes.get(title, {}).items())
            table.add_row(title, said, f"{np.median(times) * 1e6:,.1f}")
        Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
