"""How rules are compiled: in the buffers' dtype, vectorized, from the disk the second time, and
anew after an edit."""

import functools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from minicnn.errors import PluginError
from minicnn.kernels.cpu.call import call as call_compiled
from minicnn.kernels.cpu.rules import compile_loss, compile_update
from minicnn.rules import Hyperparameter, LossRule, OptimizerRule

RATE = Hyperparameter("learning_rate", 0.1)
FACTORS = (0.5, 0.25)
STRANGE = 0.1  # not a float32


def optimizer(update, slots=(), name="under-test"):
    return OptimizerRule(
        name, update, lambda step, state, learning_rate: (learning_rate,), (RATE,), slots
    )


@njit
def call(address, params, grads, slots, scalars):
    call_compiled(address, (params, grads, slots, scalars, 0, params.size))


def stepped(rule, dtype=np.float64, params=(1.0, 2.0, 3.0), grads=(1.0, 0.0, -1.0), scalars=(0.5,)):
    """The parameters and slots after one compiled step."""
    params = np.array(params, dtype)
    slots = np.zeros((len(rule.slots), params.size), dtype)
    call(
        compile_update(rule, dtype).address,
        params,
        np.array(grads, dtype),
        slots,
        np.array(scalars, dtype),
    )
    return params, slots


# --- what a rule may be written with --------------------------------------------------------------


def half(x):
    return FACTORS[0] * x


def quarter(x):
    return half(half(x))


def test_a_rule_without_slots_returns_a_number_or_a_tuple_of_one():
    for update in (lambda p, g, rate: p - rate * g, lambda p, g, rate: (p - rate * g,)):
        np.testing.assert_array_equal(stepped(optimizer(update))[0], [0.5, 2.0, 3.5])


def test_a_rule_may_take_no_scalars():
    rule = optimizer(lambda p, g: p - g)
    assert compile_update(rule, np.float64).scalars == 0
    np.testing.assert_array_equal(stepped(rule)[0], [0.0, 2.0, 4.0])


def test_a_rule_may_call_functions_of_its_module_and_read_constants_and_closures():
    offset = 8.0

    def update(p, g, rate):
        return p - rate * quarter(g) * FACTORS[1] + offset

    np.testing.assert_allclose(stepped(optimizer(update))[0], [1 - 1 / 32 + 8, 10, 3 + 1 / 32 + 8])


def test_slots_are_kept_apart_and_in_order():
    def update(p, g, first, second, third, fourth, rate):
        return p, first + 1.0, second + 2.0, third + g, fourth + p

    params, slots = stepped(optimizer(update, ("first", "second", "third", "fourth")))
    np.testing.assert_array_equal(params, [1, 2, 3])
    np.testing.assert_array_equal(slots, [[1, 1, 1], [2, 2, 2], [1, 0, -1], [1, 2, 3]])


def test_constants_and_literals_have_the_dtype_of_the_buffers():
    def update(p, g, rate):
        return p * STRANGE * 0.3 + (0.7, 0.9)[0] + FACTORS[1]

    f = np.float32
    expected = f(3.0) * f(STRANGE) * f(0.3) + f(0.7) + f(FACTORS[1])
    np.testing.assert_allclose(stepped(optimizer(update), np.float32)[0][2], expected, rtol=1.2e-7)
    np.testing.assert_allclose(
        stepped(optimizer(update))[0][2], 3 * 0.1 * 0.3 + 0.7 + 0.25, rtol=1e-15
    )


def test_float32_and_float64_versions_of_one_rule_live_side_by_side():
    rule = optimizer(lambda p, g, rate: p - rate * g / 3.0)
    single, double = stepped(rule, np.float32)[0], stepped(rule, np.float64)[0]
    assert single.dtype == np.float32 and double.dtype == np.float64
    np.testing.assert_allclose(double, [1 - 1 / 6, 2, 3 + 1 / 6], rtol=1e-15)
    np.testing.assert_allclose(single, double, rtol=1e-6)


def test_two_rules_of_one_name_are_not_confused():
    up, down = optimizer(lambda p, g, rate: p + rate), optimizer(lambda p, g, rate: p - rate)
    assert compile_update(up, np.float64).address != compile_update(down, np.float64).address
    np.testing.assert_array_equal(stepped(up)[0], [1.5, 2.5, 3.5])
    np.testing.assert_array_equal(stepped(down)[0], [0.5, 1.5, 2.5])


def test_the_same_rule_is_compiled_once_in_a_process():
    rule = optimizer(lambda p, g, rate: p + 3.0 * rate)
    assert compile_update(rule, np.float64).address == compile_update(rule, np.float64).address


# --- what it may not ------------------------------------------------------------------------------


def calls_itself(x):
    return calls_itself(x - 1.0) if x > 0.0 else x


def returns_too_little(p, g, slot, rate):
    return p


class Callable:
    def __call__(self, p, g, rate):
        return p


@pytest.mark.parametrize(
    ("update", "slots", "reason"),
    [
        (lambda p: p, (), r"must take \(p, g"),
        (lambda p, g: p, ("m",), r"must take \(p, g, \*\['m'\]"),
        (lambda *everything: everything, (), "name each of its arguments"),
        (lambda p, g, *, rate: p, (), "name each of its arguments"),
        (lambda p, g, rate: calls_itself(p), (), "calls_itself must not call itself"),
        (lambda p, g, rate: json.dumps(p), (), "cannot be compiled: .*json"),
        (returns_too_little, ("m",), "cannot be compiled"),
        (Callable(), (), "undecorated Python function"),
        (functools.partial(math.pow, 2.0), (), "undecorated Python function"),
    ],
)
def test_an_update_that_cannot_be_compiled_is_one_clear_line(update, slots, reason):
    with pytest.raises(PluginError, match=reason) as caught:
        compile_update(optimizer(update, slots), np.float32)
    text = str(caught.value)
    assert "'under-test'" in text
    assert "\n" not in text and "\x1b" not in text


def test_a_loss_row_with_the_wrong_arguments_says_which_are_right():
    rule = LossRule("under-test", lambda logits, label: 0.0, (RATE,), class_weights=True)
    with pytest.raises(
        PluginError, match=r"\(logits, target, dlogits, class_weights, learning_rate\)"
    ):
        compile_loss(rule, np.float32)


def test_arrays_with_gaps_are_refused_when_the_caller_is_compiled():
    address = compile_update(optimizer(lambda p, g, rate: p), np.float64).address
    one, slots, rate = np.ones(4), np.zeros((1, 4)), np.ones(1)
    with pytest.raises(TypingError, match="contiguous arrays are needed"):
        call(address, np.ones(8)[::2], one, slots, rate)


# --- processes and the disk -----------------------------------------------------------------------

RULE = """
from numbers_of_the_rule import ANOTHER
from minicnn.rules import Hyperparameter, OptimizerRule

CONSTANT = 2.0

def scaled(x):
    return CONSTANT * x * ANOTHER

def update(p, g, a, b, c, d, rate):
    return p - scaled(g) / (a + 3.0), a + 1.0, b + a, c + b, d + g * g

RULE = OptimizerRule("mine", update, lambda step, state, learning_rate: (learning_rate,),
                     (Hyperparameter("learning_rate", 0.1),), ("a", "b", "c", "d"))
"""

RUN = """
import importlib.util, json, sys
import numpy as np
import numba
from minicnn.kernels.cpu.call import call as call_compiled
from minicnn.kernels.cpu.rules import compile_update

spec = importlib.util.spec_from_file_location("a name that cannot be imported", "rule.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
compiled = compile_update(module.RULE, np.float32)

@numba.njit(cache=True)
def step(address, params, grads, slots, scalars):
    call_compiled(address, (params, grads, slots, scalars, 0, params.size))

params, slots = np.zeros(2, np.float32), np.zeros((4, 2), np.float32)
step(compiled.address, params, np.full(2, 3, np.float32), slots, np.ones(1, np.float32))
answer = {"params": params.tolist(), "hits": compiled.cfunc.cache_hits, "caller": sum(step.stats.cache_hits.values())}
if "--llvm" in sys.argv:
    from minicnn import plugins
    adam = compile_update(plugins.find("optimizer", "adam"), np.float32)
    answer["llvm"] = {"mine": compiled.cfunc.inspect_llvm(), "adam": adam.cfunc.inspect_llvm()}
print(json.dumps(answer))
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a rule of four slots, a constant of its own and one of another file, and a
    script that runs it."""
    (tmp_path / "rule.py").write_text(RULE)
    (tmp_path / "numbers_of_the_rule.py").write_text("ANOTHER = 1.0\n")
    (tmp_path / "run.py").write_text(RUN)
    return tmp_path


def start(project, *arguments, cache="cache", **environment):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(project / cache), **environment}
    command = [sys.executable, "run.py", *arguments]
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True
    )


def answer(process):
    output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_second_process_compiles_nothing(project):
    first, second = answer(start(project)), answer(start(project))
    assert first == {"params": [-2.0, -2.0], "hits": 0, "caller": 0}
    assert second == {"params": [-2.0, -2.0], "hits": 1, "caller": 1}


def test_editing_a_constant_or_a_helper_takes_effect_although_the_caller_is_cached(project):
    assert answer(start(project))["params"] == [-2.0, -2.0]
    edit(project / "rule.py", "CONSTANT = 2.0", "CONSTANT = 4.0")
    assert answer(start(project)) == {"params": [-4.0, -4.0], "hits": 0, "caller": 1}
    edit(project / "numbers_of_the_rule.py", "1.0", "0.5")
    assert answer(start(project)) == {"params": [-2.0, -2.0], "hits": 0, "caller": 1}
    edit(project / "rule.py", "x * ANOTHER", "x / ANOTHER")
    assert answer(start(project)) == {"params": [-8.0, -8.0], "hits": 0, "caller": 1}


def test_two_first_processes_at_once_do_not_harm_each_other(project):
    for process in [start(project) for _ in range(2)]:
        assert answer(process)["params"] == [-2.0, -2.0]
    assert answer(start(project))["hits"] == 1


def test_a_cache_folder_that_cannot_be_written_is_done_without(project):
    (project / "file").write_text("")
    edit(project / "run.py", "cache=True", "cache=False")
    for _ in range(2):
        found = answer(start(project, cache="file/cache", TMPDIR=str(project)))
        assert found == {"params": [-2.0, -2.0], "hits": 0, "caller": 0}
    assert not list(project.glob("minicnn-rules-*"))  # the temporary folder is gone


def test_without_numbas_variable_the_cache_is_in_the_users_cache_folder(project):
    edit(project / "run.py", "cache=True", "cache=False")
    for variable, folder in (("MINICNN_CACHE", "rules"), ("XDG_CACHE_HOME", "minicnn/rules")):
        environment = {
            "NUMBA_CACHE_DIR": "",
            "MINICNN_CACHE": "",
            variable: str(project / variable),
        }
        assert [answer(start(project, **environment))["hits"] for _ in range(2)] == [0, 1]
        assert list((project / variable / folder).glob("minicnn_optimizer_mine_float32_*.py"))


def test_float32_updates_are_vectorized_and_free_of_float64(project):
    for name, llvm in answer(start(project, "--llvm"))["llvm"].items():
        divisions = [line for line in llvm.splitlines() if " fdiv " in line]
        assert any(" x float>" in line for line in divisions), name
        assert "memcheck" not in llvm, name  # no test at run time whether the buffers overlap
        assert "double" not in llvm, name
