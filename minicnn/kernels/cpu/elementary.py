"""The functions of ``math`` in rules, for float32 on the CPU: exp, expm1, log1p, tanh and erf as
arithmetic alone, which LLVM vectorizes. The library's functions take 7 to 10 ns a number, one after
another.

Plain functions, as a rule's are, whose constants become float32 (`minicnn.kernels.generated`).
Their errors are below 5·10⁻⁷ of the value; NaN and ±∞ give what the library gives. They need the
order of operations as it is written, so never "reassoc". Cody, Waite: Software manual for the
elementary functions, 1980.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I32 = ir.IntType(32)
_INFINITY, _NAN = float("inf"), float("nan")


@intrinsic
def _power(typing_context, shifted, part):
    """2 to half of n, rounded down (``part`` 0) or up (1), from the float32 n + 1.5·2²³: 2ⁿ itself
    could be ∞ where the product with it is not."""

    def generate(context, builder, signature, arguments):
        number = builder.sub(builder.bitcast(arguments[0], _I32), ir.Constant(_I32, 0x4B400000))
        number = builder.add(number, builder.trunc(arguments[1], _I32))
        exponent = builder.add(builder.ashr(number, ir.Constant(_I32, 1)), ir.Constant(_I32, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(_I32, 23)), ir.FloatType())

    return types.float32(types.float32, types.int64), generate


@intrinsic
def _exponent(typing_context, x):
    """e, for x = 2ᵉ · m with m from √½ to √2."""

    def generate(context, builder, signature, arguments):
        bits = builder.sub(builder.bitcast(arguments[0], _I32), ir.Constant(_I32, 0x3F3504F3))
        return builder.sitofp(builder.ashr(bits, ir.Constant(_I32, 23)), ir.FloatType())

    return types.float32(types.float32), generate


def _reduced(x):
    """(expm1(r), n + 1.5·2²³) with x = n · log 2 + r and n the nearest whole number: the series of
    expm1 to r⁷."""
    x = 89.0 if x > 89.0 else x
    x = -104.0 if x < -104.0 else x
    shifted = x * 1.4426950408889634 + 12582912.0
    n = shifted - 12582912.0
    r = (x - n * 0.693359375) + n * 2.1219444005469057e-4  # log 2 in two parts, n · the first exact
    tail = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0))
    return r + r * r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * tail))), shifted


def exp(x):
    """2ⁿ · exp(r)."""
    less_one, shifted = _reduced(x)
    return (1.0 + less_one) * _power(shifted, 0) * _power(shifted, 1)


def expm1(x):
    """2ⁿ · expm1(r) + 2ⁿ − 1."""
    less_one, shifted = _reduced(x)
    low, high, inverse = _power(shifted, 0), _power(shifted, 1), _power(25165824.0 - shifted, 0)
    return (less_one * low + (low - inverse)) * high


def tanh(x):
    """expm1(2|x|) / (expm1(2|x|) + 2), with the sign of x; from |x| = 10 on it is ±1."""
    size = abs(x)
    e = expm1(2.0 * (10.0 if size > 10.0 else size))
    y = e / (e + 2.0)
    return -y if x < 0.0 else y


def log1p(x):
    """e · log 2 + 2 · artanh(s), where 1 + x = 2ᵉ · m and s = (m − 1) / (m + 1): the series of
    artanh to s⁹. What 1 + x lost in rounding is added over 1 + x."""
    y = 1.0 + x
    lost = (x - (y - 1.0)) / y
    e = _exponent(y)
    m = y * _power(12582912.0 - e, 0) * _power(12582912.0 - e, 1)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1.0 + z * (1.0 / 3.0 + z * (0.2 + z * (1.0 / 7.0 + z * (1.0 / 9.0))))
    value = e * 0.6931471805599453 + (2.0 * s * series + lost)
    value = x if x == _INFINITY else value
    value = -_INFINITY if y == 0.0 else value
    return _NAN if y < 0.0 else value


def erf(x):
    """x · P(x²) / Q(x²), whose largest relative error up to |x| = 3.95 is the least, 2·10⁻⁸ (found
    by Lawson's iteration); from there on ±1 is the nearest float32."""
    x = 3.95 if x > 3.95 else x
    x = -3.95 if x < -3.95 else x
    z = x * x
    p = 0.052873417522 + z * (0.00380751888363 + z * (0.000284662976999 + z * 2.02587679968e-06))
    q = 0.0150538063567 + z * (0.00117055088913 + z * 3.78301814925e-05)
    p = 1.12837914289 + z * (0.191536810734 + z * p)
    y = x * p / (1.0 + z * (0.503077758982 + z * (0.114553825178 + z * q)))
    y = 1.0 if y > 1.0 else y
    return -1.0 if y < -1.0 else y
