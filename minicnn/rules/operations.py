"""What the update of a `TensorRule` may use besides loops over elements: norm, dot, matmul, axpy.

These are the operations in plain Python, on NumPy arrays; in a compiled rule each device puts its own in their place
(``kernels/<device>/tensor.py``). Sums are taken in float64 and returned in the arrays' dtype.
"""

from typing import Any


def norm(a: Any) -> Any:
    """√Σ a²."""
    return a.dtype.type((a.astype("float64") ** 2).sum() ** 0.5)


def dot(a: Any, b: Any) -> Any:
    """Σ a·b of two matrices of one shape."""
    return a.dtype.type((a.astype("float64") * b).sum())


def axpy(factor: float, x: Any, y: Any) -> None:
    """y ← factor · x + y."""
    y += y.dtype.type(factor) * x


def matmul(a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """out ← A · B, A being ``a`` or its transpose, B likewise; ``out`` is neither of them."""
    out[:] = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
