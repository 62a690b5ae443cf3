"""Digests of source files: what machine code depends on, where Numba's cache sees only the file of
the function itself."""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]  # of the package


@functools.cache
def digest_of(module: str) -> str:
    """A digest of the source of ``module``, such as ``minicnn.kernels.cpu.conv2d``, and of what it
    imports from here."""
    digest = hashlib.sha256()
    for name in sorted(_closure(module, set())):
        digest.update(_file(name).read_bytes())
    return digest.hexdigest()[:12]


def _file(module: str) -> Path:
    path = _ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _closure(module: str, seen: set[str]) -> set[str]:
    """``module`` and all modules of this package that it imports, directly or not."""
    if module not in seen:
        seen.add(module)
        for name in _imports(ast.parse(_file(module).read_text("utf-8"))):
            _closure(name, seen)
    return seen


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minicnn."):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if _file(name).is_file()]
            yield from modules
            if len(modules) < len(inner):
                yield str(node.module)
