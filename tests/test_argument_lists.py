"""Functions take few arguments: what travels together is a record."""

import ast
from pathlib import Path

import minicnn

PACKAGE = Path(minicnn.__file__).parent
MOST = 8  # as many as an operation's backward pass takes
EXCEPTIONS = {
    "kernels/cuda/gather.py": {"gather_views"},  # launched: a GPU takes arrays one by one
    # An optimizer as its equation: p, g, its state, and the numbers that its `prepare` gives.
    "optimizers/adagrad.py": {"rmsprop_momentum", "adadelta"},
    "optimizers/adam.py": {
        "adam",
        "amsgrad",
        "radam",
        "adamax",
        "adamw",
        "adamw_amsgrad",
        "nadam",
        "lion",
    },
    "sklearn.py": {"__init__"},  # scikit-learn's parameters are the names of these arguments
}


def long_argument_lists(source):
    """Names of the functions in ``source`` with more than `MOST` parameters."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            if count + bool(arguments.vararg) + bool(arguments.kwarg) > MOST:
                yield node.name


def test_no_function_takes_more_than_eight_arguments():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        names = set(long_argument_lists(path.read_text(encoding="utf-8")))
        if names:
            found[path.relative_to(PACKAGE).as_posix()] = names
    assert found == EXCEPTIONS
