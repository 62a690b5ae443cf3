"""Nothing that a user can call reads or writes outside its arrays, or takes wrong ones silently."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit, prange

import minicnn
from minicnn import Conv2d, Dense, Flatten, Model, Network, Passes, ReLU
from minicnn.errors import ModelFileError, NetworkError, SettingError
from minicnn.storage import read_tensors, write_tensors

NETWORK = Network((8, 6, 3), [Conv2d(4, 3), ReLU(), Flatten(), Dense(3)])
PARAMS = NETWORK.initialize(np.random.default_rng(0))
X = np.random.default_rng(1).random((4, 8, 6, 3)).astype(np.float32)


def model():
    return Model(NETWORK, PARAMS, ("a", "b", "c"), maximum=1.0, image_dtype="float32")


def test_no_wrong_array_is_taken_silently_or_ends_the_process():
    script = Path(__file__).with_name("wrong_arrays.py")
    command = [sys.executable, str(script), "7", "200"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    counts = json.loads(result.stdout)
    assert counts["calls"] > 900 and 500 < counts["refused"] < counts["calls"] - 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p, q, w, x, z: (p, q, w, x[:, :7].copy(), z), r"be', \(8, 6, 3\), 'not', \(7, 6"),
        (lambda p, q, w, x, z: (p, q, w, x, z[:3]), r"logits must be', \(4, 3\), 'not', \(3, 3\)"),
        (lambda p, q, w, x, z: (p, q[:-1], w, x, z), "params must have the length"),
        (lambda p, q, w, x, z: (p, q, w[:-1], x, z), "work must have the length"),
        (lambda p, q, w, x, z: (p[:0], q, w, x, z), "the plan is empty"),
        (
            lambda p, q, w, x, z: (p, *(a.astype(np.float64) for a in (q, w, x, z))),
            "of parameters of another dtype",
        ),
    ],
)
def test_forward_says_what_was_given_and_what_is_needed(wrong, message):
    arguments = *model().njit_arguments(), X, np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=message):
        minicnn.forward(*wrong(*arguments))


def test_another_dtype_is_a_type_error_of_one_sentence():
    @njit
    def mine(plan, params, work, x, logits):
        minicnn.forward(plan, params, work, x, logits)

    logits = np.zeros((4, 3), np.float32)
    with pytest.raises(TypeError) as error:
        mine(*model().njit_arguments(), (X * 255).astype(np.uint8), logits)
    assert str(error.value) == (
        "minicnn.forward: x must be a C-contiguous array of float32 with 4 dimensions, "
        "not array(uint8, 4d, C)"
    )
    plan, params, work = model().njit_arguments()

    @njit
    def of_globals(x, logits):
        minicnn.forward(plan, params, work, x, logits)

    with pytest.raises(TypeError, match="handed over as an argument, for Numba takes a global"):
        of_globals(X, logits)
    logits.flags.writeable = False
    with pytest.raises(TypeError, match="logits is read-only"):
        minicnn.forward(*model().njit_arguments(), X, logits)


def test_passes_hold_the_batch_that_they_were_made_for():
    with pytest.raises(SettingError, match=r"N from 1 to 2, the batch size, not \[4, 8, 6, 3\]"):
        Passes(NETWORK, PARAMS, 2).forward(X)
    with pytest.raises(SettingError, match="Passes: batch_size must be a whole number from 1 on"):
        Passes(NETWORK, PARAMS, 0)
    passes = Passes(NETWORK, PARAMS, 4)
    with pytest.raises(SettingError, match="dlogits must be"):
        passes.backward(np.zeros((4, 3)))
    passes.forward(X[:2])
    with pytest.raises(SettingError, match=r"dlogits must be \[2, 3\].*not \[4, 3\]"):
        passes.backward(np.zeros((4, 3)))
    looked_at = Passes(NETWORK, PARAMS, 4, by_operation=True)
    with pytest.raises(SettingError, match="no forward pass to go on from"):
        looked_at.forward_by_operation()


def test_sizes_that_no_memory_holds_are_refused_at_once():
    with pytest.raises(NetworkError, match=r"layer 1.*more than 2³¹"):
        Network((2**32, 2**32, 1), [Flatten(), Dense(2)])
    with pytest.raises(NetworkError, match=r"layer 4.*more than 2³¹"):
        Network((8, 6, 3), [Conv2d(4, 3), ReLU(), Flatten(), Dense(2**31)])


def test_a_small_file_that_describes_a_large_network_takes_no_memory(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    model().save(path)
    tensors, metadata = read_tensors(path, "model")
    metadata["network"]["layers"][-1]["units"] = 10_000_000
    write_tensors(path, "model", tensors, metadata)
    monkeypatch.setattr(
        "minicnn.network.network.aligned_zeros", lambda *_: pytest.fail("memory was taken")
    )
    with pytest.raises(ModelFileError, match=r"dense1.weight.*\(96, 10000000\)"):
        minicnn.load(path)


# --- pickling -------------------------------------------------------------------------------------


def test_a_model_that_has_predicted_is_pickled_without_addresses(tmp_path):
    used = model()
    expected = used.logits(X)
    (tmp_path / "m.pickle").write_bytes(pickle.dumps(used))
    np.save(tmp_path / "x.npy", X)
    code = (
        "import pickle, numpy as np\n"
        "model = pickle.load(open('m.pickle', 'rb'))\n"
        "np.save('y.npy', model.logits(np.load('x.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_passes_are_made_anew_and_plans_are_not_pickled():
    passes = Passes(NETWORK, PARAMS, 4)
    again = pickle.loads(pickle.dumps(passes))
    np.testing.assert_array_equal(again.forward(X), passes.forward(X))
    assert again.plan.table.ctypes.data != passes.plan.table.ctypes.data
    with pytest.raises(TypeError, match="call njit_arguments"):
        pickle.dumps(model().njit_arguments())
    with pytest.raises(TypeError, match="addresses of compiled code"):
        pickle.dumps(passes.plan)


# --- a workspace for each thread ------------------------------------------------------------------


@njit(parallel=True)
def over_threads(plan, params, work, images, logits):
    threads = len(work)
    for thread in prange(threads):
        for i in range(thread, len(images), threads):
            minicnn.forward(plan, params, work[thread], images[i : i + 1], logits[i : i + 1])


def test_each_thread_of_a_users_loop_has_a_workspace():
    images = np.random.default_rng(3).random((500, 8, 6, 3)).astype(np.float32)
    logits = np.zeros((500, 3), np.float32)
    arguments = model().njit_arguments(threads=2)
    assert arguments.work.shape[0] == 2
    for _ in range(5):
        logits[:] = np.nan
        over_threads(*arguments, images, logits)
        np.testing.assert_array_equal(logits, model().logits(images))
    for wrong in (0, 1.5):
        with pytest.raises(SettingError, match="threads must be a whole number"):
            model().njit_arguments(threads=wrong or -1)
