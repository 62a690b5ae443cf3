"""What a rule's ``math`` computes in float32 on the CPU, against NumPy and Python in float64."""

import math

import numba
import numpy as np
import pytest

from minicnn.kernels.cpu import elementary, rules
from minicnn.kernels.cpu.compiler import Entry
from minicnn.kernels.generated import _Retyping
from minicnn.rules import ActivationRule

ERF = np.vectorize(math.erf, otypes=[float])
EXACT = {"exp": np.exp, "expm1": np.expm1, "log1p": np.log1p, "tanh": np.tanh, "erf": ERF}
NUMBERS = np.random.default_rng(0)
POWERS = 10.0 ** NUMBERS.uniform(-37, 1.9, 20_000)
X = np.concatenate(
    [np.linspace(-87, 88.7, 50_001), NUMBERS.standard_normal(20_000), POWERS, -POWERS]
)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, -1.5, 89.0, -200.0], np.float32)


def loop_of(name):
    """A loop over ``math.NAME`` as rules have it."""

    def jit(function):
        return numba.njit(function, forceinline=True, **rules.OPTIONS)

    mathematics = {key: getattr(elementary, key) for key in EXACT}
    function = getattr(_Retyping("a test", np.float32, jit, mathematics).math, name)

    @numba.njit(pipeline_class=Entry, **rules.OPTIONS)
    def loop(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    return loop


@pytest.mark.parametrize("name", EXACT)
def test_it_is_as_near_as_float32_allows_and_no_library_is_called(name):
    x = X.astype(np.float32)
    if name == "log1p":
        x = np.concatenate([x[x > -1], 10.0 ** NUMBERS.uniform(2, 38, 5000)]).astype(np.float32)
    y, special, loop = np.empty_like(x), np.empty_like(SPECIAL), loop_of(name)
    loop(x, y)
    exact = EXACT[name](x.astype(np.float64))
    normal = np.abs(exact) > 1.2e-38
    assert np.abs(y[normal] / exact[normal] - 1).max() < 5e-7
    assert np.abs(y[~normal] - exact[~normal]).max(initial=0) < 1e-38
    loop(SPECIAL, special)
    with np.errstate(all="ignore"):
        expected = EXACT[name](SPECIAL.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(special, expected, rtol=5e-7)
    (code,) = loop.inspect_asm().values()
    assert f"{name}f" not in code


def _value(x):
    return math.sqrt(math.fabs(x)) + math.exp(x)


def test_other_functions_of_math_are_the_librarys_and_float64_too():
    rule = ActivationRule("other", _value, _value, equation="y = √|x| + exp(x)", source="")
    for dtype in (np.float32, np.float64):
        code = rules.compile_layer(rule, "forward", dtype).inspect_llvm()
        assert ("@llvm.exp.f" in code) == (dtype == np.float64), dtype
