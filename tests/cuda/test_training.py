"""The CUDA backend beside the CPU's: in the simulator, in a process of its own; the same tests on a
GPU if asked for."""

import pytest

from tests.cuda.test_passes import run


@pytest.mark.parametrize("simulator", ["1", pytest.param("0", marks=pytest.mark.gpu)])
def test_training_and_inference_equal_the_cpus(simulator):
    done = run(file="training_on_device.py", simulator=simulator)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
