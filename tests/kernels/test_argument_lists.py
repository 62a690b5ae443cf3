"""Kernels take few arguments: what travels together is a record."""

import ast
from pathlib import Path

import minicnn

KERNELS = Path(minicnn.__file__).parent / "kernels"
MOST = 8  # as many as an operation's backward pass takes
EXCEPTIONS = {
    "cuda/gather.py": {"gather_views"},  # launched: a GPU takes arrays one by one
}


def long_argument_lists(source):
    """Names of the functions in ``source`` with more than `MOST` parameters."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            if count + bool(arguments.vararg) + bool(arguments.kwarg) > MOST:
                yield node.name


def test_no_kernel_takes_more_than_eight_arguments():
    found = {}
    for path in KERNELS.rglob("*.py"):
        file = path.relative_to(KERNELS).as_posix()
        names = set(long_argument_lists(path.read_text(encoding="utf-8")))
        if names - EXCEPTIONS.get(file, set()):
            found[file] = names - EXCEPTIONS.get(file, set())
    assert found == {}
