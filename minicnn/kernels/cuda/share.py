"""A rule on whole tensors, rewritten so that the threads of one block run it together.

All threads run the rule's statements with the same numbers. A loop over elements, which only stores to array elements that
no other round of the loop touches, is dealt out to the threads, between two barriers; any other store is done by the first
thread alone. So whatever can be written is right, and what is written as loops over elements is fast.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import numpy as np
from numba import cuda

from minicnn.errors import PluginError
from minicnn.kernels.cuda.tensor import reshaped
from minicnn.kernels.cuda.tile import THREADS, divide
from minicnn.rules import operations

# The statements that a rule may be made of.
_SHARED = (ast.Assign, ast.AugAssign, ast.Expr, ast.For, ast.While, ast.If, ast.Pass, ast.Break, ast.Continue, ast.Return)
_OPERATIONS = (operations.norm, operations.dot, operations.axpy, operations.matmul)


def shared_out(name: str, function: FunctionType) -> FunctionType:
    """The rewritten ``function`` of the rule ``name``; raises `PluginError` for what the threads cannot share."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        raise PluginError(f"optimizer {name!r}: for cuda the source of {function.__name__} must be in a file") from None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise PluginError(f"optimizer {name!r}: for cuda update must be written with def")
    known = function.__globals__ | inspect.getclosurevars(function).nonlocals
    definition.body = _Sharing(name, known, definition).block(definition.body, set())
    _Float32().visit(definition)
    cells = function.__code__.co_freevars
    outer = ast.parse(f"def outer({', '.join(cells)}):\n    return None").body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [definition, ast.Return(ast.Name(definition.name, ast.Load()))]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    scope = {**function.__globals__, "_cuda": cuda, "_THREADS": THREADS, "_divide": divide, "_float32": np.float32,
             "_reshaped": reshaped, **{f"_{operation.__name__}": operation for operation in _OPERATIONS}}  # fmt: skip
    exec(compile(module, function.__code__.co_filename, "exec"), scope)
    made: FunctionType = scope["outer"](*(cell.cell_contents for cell in function.__closure__ or ()))
    return made


class _Sharing:
    """The rewriting of one function."""

    def __init__(self, rule: str, known: dict[str, Any], definition: ast.FunctionDef):
        self.rule, self.known, self.count = rule, known, 0
        self.views = _views(definition)

    def block(self, statements: list[ast.stmt], live: set[str]) -> list[ast.stmt]:
        """Statements that all threads run; the names in ``live`` are read after them."""
        made: list[ast.stmt] = []
        for index, statement in enumerate(statements):
            after = _free(statements[index + 1 :])[0] | live
            made += self.statement(statement, after)
        return made

    def statement(self, node: ast.stmt, live: set[str]) -> list[ast.stmt]:
        """One statement that all threads run."""
        if isinstance(node, ast.For) and self.elementwise(node, live):
            return self.dealt_out(node)
        targets = node.targets if isinstance(node, ast.Assign) else []
        mixed = _stores([node]) and any(isinstance(target, ast.Tuple | ast.List) for target in targets)
        if not isinstance(node, _SHARED) or mixed or (isinstance(node, ast.For | ast.While) and node.orelse):
            raise PluginError(f"optimizer {self.rule!r}: on cuda update cannot have: {ast.unparse(node).splitlines()[0]}")
        if isinstance(node, ast.For | ast.While):
            node.body = self.block(node.body, live | _free([node])[0])
        elif isinstance(node, ast.If):
            node.body, node.orelse = self.block(node.body, live), self.block(node.orelse, live)
        elif isinstance(node, ast.Assign | ast.AugAssign) and _stores([node]):
            return self.by_one_thread(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not self.is_operation(node.value):
            raise PluginError(f"optimizer {self.rule!r}: on cuda update cannot call {ast.unparse(node.value.func)} for what "
                              "it changes: write its loops in update itself")  # fmt: skip
        self.check_calls(node)
        return [node]

    def is_operation(self, node: ast.Call) -> bool:
        """Whether a call is of a function of `minicnn.rules.operations`."""
        function = self.called(node)
        return function is not None and function.__module__ == operations.__name__

    def called(self, node: ast.AST) -> FunctionType | None:
        """The Python function that a node calls, if it is a call of one."""
        function = node.func if isinstance(node, ast.Call) else None
        found: Any = None
        if isinstance(function, ast.Name):
            found = self.known.get(function.id)
        elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            found = getattr(self.known.get(function.value.id), function.attr, None)
        return found if isinstance(found, FunctionType) else None

    def check_calls(self, node: ast.AST) -> None:
        """Functions in an expression must change nothing; those of `operations` are called without keywords."""
        for call in ast.walk(node):
            function = self.called(call)
            if function is None or not isinstance(call, ast.Call):
                continue
            if function.__module__ == operations.__name__:
                given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
                bound = inspect.signature(function).bind(*call.args, **given)
                bound.apply_defaults()
                call.args = [value if isinstance(value, ast.expr) else ast.Constant(value) for value in bound.args]
                call.keywords, call.func = [], ast.Name(f"_{function.__name__}", ast.Load())
                continue
            try:
                body = ast.parse(textwrap.dedent(inspect.getsource(function))).body
            except (OSError, SyntaxError):
                continue  # a lambda inside an expression: nothing can be stored there
            if _stores(body):
                raise PluginError(f"optimizer {self.rule!r}: on cuda {function.__name__} must not change arrays: write its "
                                  "loops in update itself")  # fmt: skip

    def elementwise(self, loop: ast.For, live: set[str]) -> bool:
        """Whether the rounds of a loop can be made in any order, by several threads."""
        nodes = list(ast.walk(loop))
        stored = {name for name, _ in _stores([loop])}
        names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        carried = _free(loop.body, {_target(loop)})[0]
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        return (
            bool(stored) and _ranges(loop) is not None and not loop.orelse
            and not names & (carried | live)
            and not any(isinstance(node, ast.Break | ast.Return) for node in nodes)
            and not any(isinstance(node, ast.Call) and self.is_operation(node) for node in nodes)
            and all(_own_element(loop, name, _target(loop)) for name in stored)
            and not any(self.views.get(one, one) == self.views.get(name, name) for name in stored for one in used - {name})
        )  # fmt: skip

    def dealt_out(self, loop: ast.For) -> list[ast.stmt]:
        """The same loop with a share of its rounds for each thread; two loops, one right inside the other, are one."""
        self.check_calls(loop)
        self.count += 1
        outer, inner = _ranges(loop), loop.body[0]
        assert outer is not None
        both = _ranges(inner) if isinstance(inner, ast.For) and len(loop.body) == 1 and not inner.orelse else None
        i = _target(loop)
        if (both is not None and both[0] == outer[0] == "0" and both[2] == outer[2] == "1" and isinstance(inner, ast.For)
                and i not in both[1] and all(_own_element(loop, name, _target(inner)) for name, _ in _stores([loop]))):
            k, width, body = f"_k{self.count}", f"_width{self.count}", inner.body
            made = _parse(f"{width} = {both[1]}\nfor {k} in range(_cuda.threadIdx.x, ({outer[1]}) * {width}, _THREADS):\n"
                          f"    {i} = _divide({k}, {width})\n    {_target(inner)} = {k} - {i} * {width}")  # fmt: skip
        else:
            (start, stop, step), body = outer, loop.body
            made = _parse(f"for {i} in range(({start}) + _cuda.threadIdx.x * ({step}), {stop}, _THREADS * ({step})): pass")
        assert isinstance(made[-1], ast.For)
        made[-1].body += body
        return [*_barrier(), *made, *_barrier()]

    def by_one_thread(self, node: ast.Assign | ast.AugAssign) -> list[ast.stmt]:
        """All threads compute the value, and the first one stores it."""
        self.check_calls(node)
        self.count += 1
        value = _parse(f"_value{self.count} = 0")[0]
        assert isinstance(value, ast.Assign)
        value.value, node.value = node.value, ast.Name(f"_value{self.count}", ast.Load())
        guard = _parse("if _cuda.threadIdx.x == 0:\n    pass")[0]
        assert isinstance(guard, ast.If)
        guard.body = [node]
        return [value, *_barrier(), guard, *_barrier()]


class _Float32(ast.NodeTransformer):
    """``a.reshape(...)`` and quotients in their own way."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not (isinstance(node.func, ast.Attribute) and node.func.attr == "reshape"):
            return node
        array, shape = ast.unparse(node.func.value), node.args[0] if len(node.args) == 1 else ast.Tuple(node.args)
        sizes = [ast.unparse(size) for size in (shape.elts if isinstance(shape, ast.Tuple) else [shape])]
        if "-1" in sizes:
            known = "".join(f" // ({size})" for size in sizes if size != "-1")
            sizes[sizes.index("-1")] = f"{array}.size{known}"
        shape_of = f"({', '.join(sizes)},)" if isinstance(shape, ast.Tuple) else sizes[0]
        return ast.parse(f"_reshaped({array}, {shape_of})", mode="eval").body

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            sides = node.left, node.right
            node.left, node.right = (ast.Call(ast.Name("_float32", ast.Load()), [side], []) for side in sides)
        return node


def _parse(source: str) -> list[ast.stmt]:
    return ast.parse(source).body


def _barrier() -> list[ast.stmt]:
    return _parse("_cuda.syncthreads()")


def _target(loop: ast.For) -> str:
    return loop.target.id if isinstance(loop.target, ast.Name) else ""


def _ranges(loop: ast.stmt) -> tuple[str, str, str] | None:
    """(start, stop, step) of ``for name in range(...)``, as source."""
    if not (isinstance(loop, ast.For) and _target(loop) and isinstance(loop.iter, ast.Call)):
        return None
    given = [ast.unparse(argument) for argument in loop.iter.args]
    if ast.unparse(loop.iter.func) != "range" or loop.iter.keywords or not 1 <= len(given) <= 3:
        return None
    start, stop = ("0", given[0]) if len(given) == 1 else (given[0], given[1])
    return start, stop, given[2] if len(given) == 3 else "1"


def _stores(statements: Iterable[ast.stmt]) -> list[tuple[str, ast.Subscript]]:
    """The array elements that are stored to: (source of the array, the element)."""
    return [(ast.unparse(node.value), node) for statement in statements for node in ast.walk(statement)
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)]  # fmt: skip


def _own_element(loop: ast.For, array: str, variable: str) -> bool:
    """Whether all that a loop does with ``array`` is at indices that have ``variable`` in one and the same place."""
    places: list[set[int]] = []
    elements = [node for node in ast.walk(loop) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == array]
    for element in elements:
        index = element.slice.elts if isinstance(element.slice, ast.Tuple) else [element.slice]
        places.append({k for k, part in enumerate(index) if isinstance(part, ast.Name) and part.id == variable})
    uses = sum(isinstance(node, ast.Name) and node.id == array for node in ast.walk(loop))
    return bool(places) and bool(set.intersection(*places)) and uses == len(elements)


def _views(definition: ast.FunctionDef) -> dict[str, str]:
    """The array that each name is a view of, where ``name = array...`` says so."""
    views: dict[str, str] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            base: ast.expr = node.value
            while isinstance(base, ast.Attribute | ast.Subscript | ast.Call):
                base = base.func if isinstance(base, ast.Call) else base.value
            if isinstance(base, ast.Name):
                views[node.targets[0].id] = views.get(base.id, base.id)
    return views


def _free(statements: Iterable[ast.stmt], bound: Iterable[str] = ()) -> tuple[set[str], set[str]]:
    """(names read before they are assigned, names assigned on every way) by statements in their order."""
    free: set[str] = set()
    assigned = set(bound)

    def read(node: ast.AST | None) -> None:
        for part in ast.walk(node) if node is not None else ():
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id not in assigned:
                free.add(part.id)

    for node in statements:
        if isinstance(node, ast.For):
            read(node.iter)
            free |= _free(node.body, assigned | {_target(node)})[0]
        elif isinstance(node, ast.While | ast.If):
            read(node.test)
            first, second = _free(node.body, assigned), _free(node.orelse, assigned)
            free |= first[0] | second[0]
            if isinstance(node, ast.If):
                assigned |= first[1] & second[1]
        else:
            read(node)
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id not in assigned:
                free.add(node.target.id)
            names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
            assigned |= {part.id for part in names if isinstance(part.ctx, ast.Store)}
    return free, assigned
