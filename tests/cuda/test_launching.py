"""Kernels up to their launch, without a GPU: compiled to machine code, kept on disk, and not taken
for another's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Numba asks the GPU at hand for its compute capability alone; what compiles is the toolkit,
# without a driver.
STAND_IN = """\
import sys, types
from numba import cuda
from numba.cuda import codegen, dispatcher
GPU = types.SimpleNamespace(compute_capability=(7, 5))
dispatcher.get_current_device = lambda: GPU
codegen.devices = types.SimpleNamespace(get_context=lambda: types.SimpleNamespace(device=GPU))
dispatcher._Kernel.bind = lambda self: self._codelibrary.get_cubin(cc=(7, 5))
"""
KERNELS = """\
import json
from minicnn.activations import RULES
from minicnn.kernels.cuda import add, call, step, tensor
from minicnn.kernels.cuda.launches import OPERATION
from minicnn.kernels.cuda.rules import compile_loss, compile_update, rule_launches
from minicnn.plugins import find
rules = compile_update(find("optimizer", "adam")), compile_loss(find("loss", "mse"))
pairs = [(step.axpy, step.SIGNATURES[step.axpy]), *tensor.SIGNATURES.items()]
pairs += [(rule.function, rule.signature) for rule in rules]
operations = add.LAUNCHES, rule_launches(RULES["elu"])
pairs += [(one.kernel, OPERATION) for operation in operations for ones in operation.values() for one in ones]
stats = [call.launchable(*pair).stats for pair in pairs]
print(json.dumps([[sum(stat.cache_hits.values()), sum(stat.cache_misses.values())] for stat in stats]))
"""


def python(code, cache, root=ROOT):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_kernels_compile_to_machine_code_once_and_come_from_the_disk_then(tmp_path):
    assert python(STAND_IN + KERNELS, tmp_path) == [[0, 1]] * 10
    assert python(STAND_IN + KERNELS, tmp_path) == [[1, 0]] * 10


def test_an_edit_in_a_kernel_of_cuda_is_seen_by_cuda_and_not_by_the_cpu(tmp_path):
    names = (
        "import json; from minicnn.kernels.cuda import call; from minicnn.kernels import sources; "
        "print(json.dumps([sources.digest_of('minicnn.kernels.cpu.passes'), call.digest()]))"
    )
    shutil.copytree(
        ROOT / "minicnn",
        tmp_path / "minicnn",
        ignore=shutil.ignore_patterns("__pycache__", "embedded"),
    )
    before = python(names, tmp_path, tmp_path)
    (tmp_path / "minicnn" / "kernels" / "cuda" / "step.py").write_text("# edited\n")
    after = python(names, tmp_path, tmp_path)
    plan = tmp_path / "minicnn" / "program" / "plan.py"
    plan.write_text(plan.read_text("utf-8") + "# of both\n", "utf-8")
    both = python(names, tmp_path, tmp_path)
    assert before[0] == after[0] != both[0] and len({before[1], after[1], both[1]}) == 3


def test_the_simulator_refuses_arrays_of_another_type_than_the_signature_says():
    code = """\
import json, os
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
import numpy as np
from minicnn.backends import cuda
answers = []
for dtype in (np.float32, np.float64):
    try:
        answers.append(cuda.axpy(1.0, cuda.to_device(np.ones(3, dtype)), cuda.to_device(np.ones(3, np.float32))))
    except TypeError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""
    fits, refused = python(code, os.environ["NUMBA_CACHE_DIR"])
    assert fits is None and "axpy: argument 1 is float64, 1-dimensional" in refused
