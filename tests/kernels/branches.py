"""The CPU's kernels as plain Python with every condition watched: a program that runs the tests
against the oracle in this form, and prints what no geometry reached.

What is watched: each operand of each condition must have been true and false, each loop entered,
each function called. Kernels stay what they are but for that; what they call by an address or emit
as vector instructions has stand-ins below. Kernels that are generated of a rule, such as those of
activations, stay compiled. Of the product, which is emitted, the blocks that it switches to are
watched.
"""

import ast
import functools
import importlib
import inspect
import itertools
import json
import pkgutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from numba import njit
from numba.core.dispatcher import Dispatcher

from minicnn.kernels import cpu as kernels
from minicnn.kernels.cpu import (
    beside,
    call,
    gather,
    infer,
    infer_one,
    team,
    tile,
    vector,
    vector_sums,
)
from tests.kernels import test_graphs, test_passes, test_winograd
from tests.kernels.geometries import GEOMETRIES
from tests.training import test_batch_normalization

WITHOUT_KERNELS = {
    *("beside", "cache", "call", "compiler", "infer_one", "elementary", "rules", "team", "tile")
}
MODULES = [
    name
    for _, name, _ in pkgutil.iter_modules(kernels.__path__)
    if name not in {"arrays", *WITHOUT_KERNELS}  # what plain loops read
]
NOT_BY_GEOMETRY = "step", "gather", "tensor", "profile"  # of training and of whole vectors
# An AVX2 machine's, whatever this one is.
MACHINE = {
    "VECTOR_BYTES": 32,
    "DOTS": (5, 2),
    "BLOCK_ROWS": {1: 12, 2: 6} | dict.fromkeys(range(3, 9), 1),
}
seen: dict[str, set[bool]] = {}
needed: dict[str, set[bool]] = {}


def note(place, value):
    seen.setdefault(place, set()).add(bool(value))
    return value


class Watch(ast.NodeTransformer):
    """Conditions become calls of `note`."""

    def __init__(self, module):
        self.module = module

    def watched(self, node, text, outcomes=(True, False)):
        place = f"{self.module}:{node.lineno}: {text}"
        needed[place] = set(outcomes)
        return ast.Constant(place)

    def condition(self, test):
        if isinstance(test, ast.BoolOp) or (
            isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        ):
            return test
        place = self.watched(test, ast.unparse(test))
        return ast.Call(ast.Name("note", ast.Load()), [place, test], [])

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        node.values = [self.condition(value) for value in node.values]
        return node

    def visit_Compare(self, node):
        if len(node.ops) == 1:
            return self.generic_visit(node)
        sides = [node.left, *node.comparators]
        parts = [
            ast.copy_location(ast.Compare(sides[i], [op], [sides[i + 1]]), node)
            for i, op in enumerate(node.ops)
        ]
        return self.visit(ast.copy_location(ast.BoolOp(ast.And(), parts), node))

    def visit_If(self, node):
        self.generic_visit(node)
        node.test = self.condition(node.test)
        return node

    visit_IfExp = visit_While = visit_If

    def statement(self, node, text):
        place = self.watched(node, text, (True,))
        found = ast.Call(ast.Name("note", ast.Load()), [place, ast.Constant(True)], [])
        node.body.insert(0, ast.Expr(found))

    def visit_For(self, node):
        self.generic_visit(node)
        self.statement(node, f"for {ast.unparse(node.target)}")
        return node

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.decorator_list = []
        self.statement(node, f"def {node.name}")
        return node


def plain(module, name, wanted):
    """Put the watched form of the functions of ``module`` that are ``wanted`` into it."""
    tree, nested = ast.parse(inspect.getsource(module)), set()
    kept = []
    for node in tree.body:
        text = ast.unparse(node)
        if isinstance(node, ast.FunctionDef) and node.name == "plain":
            continue  # the formula as it stands: nothing of the kernels calls it
        if isinstance(node, ast.FunctionDef) and wanted in text:
            if not node.decorator_list:
                nested.add(node.name)
            kept.append(Watch(name).visit(node))
        elif isinstance(node, ast.Assign) and (
            "njit(" in text
            or any(isinstance(n, ast.Name) and n.id in nested for n in ast.walk(node))
        ):
            kept.append(node)
    code = ast.fix_missing_locations(ast.Module(kept, []))
    space = vars(module)
    space.update(note=note, njit=lambda **_: lambda function: function, prange=range)
    exec(compile(code, module.__file__, "exec"), space)


# ---- stand-ins


def lanes(array):
    return MACHINE["VECTOR_BYTES"] // array.itemsize


def load(array, at, count):
    result, count = np.zeros(lanes(array), array.dtype), max(0, min(count, lanes(array)))
    assert count == 0 or 0 <= at <= len(array) - count
    result[:count] = array[at : at + count]
    return result


def store(array, at, values, count):
    count = max(0, min(count, lanes(array)))
    assert count == 0 or 0 <= at <= len(array) - count
    array[at : at + count] = values[:count]


def maximum(a, b):
    return np.maximum(a, np.asarray(b, a.dtype))


def pair_maximum(a, b):
    both = np.concatenate([a, b])
    return np.maximum(both[::2], both[1::2])


def route_to_first_maximum(upper, upper_next, lower, lower_next, largest, gradient):
    lines = np.stack([np.concatenate([upper, upper_next]), np.concatenate([lower, lower_next])])
    result, taken = np.zeros_like(lines), np.zeros(len(upper), bool)
    for line in (0, 1):
        for corner in (0, 1):
            here = ~(lines[line, corner::2] < largest) & ~taken
            result[line, corner::2][here] = gradient[here]
            taken |= here
    return result[0, : len(upper)], result[0, len(upper) :], *np.split(result[1], 2)


def dots(a, a_rows, b, b_rows, length, sums):
    width = lanes(a.array)
    for i in range(vector_sums.DOTS[0]):
        for j in range(vector_sums.DOTS[1]):
            x = a.offset + min(i, a_rows - 1) * a.row
            y = b.offset + min(j, b_rows - 1) * b.row
            product = a.array[x : x + length] * b.array[y : y + length]
            product = np.pad(product, (0, -length % width)).reshape(-1, width).sum(0)
            at = sums + (i * vector_sums.DOTS[1] + j) * width
            a.array[at : at + width] += product


def transpose_block(source, target, rows, columns):
    for r in range(rows):
        for c in range(columns):
            read = source.array[source.offset + r * source.row + c]
            target.array[target.offset + c * target.row + r] = read


def blocks(rows, columns, width):
    """What the product switches to for a matrix of this size, as `tile._emit_product` does."""
    most = max(tile.BLOCK_ROWS) if rows == 1 else 2
    for n in range(0, columns, most * width):
        vectors = min(most, -(-(columns - n) // width))
        partial = columns - n - (vectors - 1) * width < width
        count = -(-rows // tile.BLOCK_ROWS[1 if vectors == 1 else 2])
        for height in {rows // count, rows // count + (rows % count > 0)}:
            yield f"product: {height}x{vectors}{' partial' if partial else ''}"


def multiply(address, shape, a, b, init, c):
    rows, columns, outer, inner, *relu = shape
    assert min(shape[:4]) > 0
    for block in blocks(rows, columns, lanes(c.array)):
        note(block, True)
    o, i = np.arange(outer)[:, None], np.arange(inner)
    at_a = a.offset + np.arange(rows)[:, None, None] * a.row + o * a.outer + i * a.inner
    at_b = b.offset + (o * b.outer + i * b.inner)[..., None] + np.arange(columns)
    assert min(at_a.min(), at_b.min()) >= 0
    left, right = a.array[at_a].reshape(rows, -1), b.array[at_b].reshape(-1, columns)
    result = np.zeros((rows, columns), c.array.dtype)
    if init.offset >= 0:
        result += init.array[init.offset + np.arange(rows)[:, None] * init.row + np.arange(columns)]
    for k in range(len(right)):  # in the order of the tile, whatever the shape
        result += left[:, k, None] * right[k]
    if any(relu):
        result[result < 0] = 0
    c.array[c.offset + np.arange(rows)[:, None] * c.row + np.arange(columns)] = result


def nine_windows(loops, taps):
    """Of each element the numbers of its taps, of nine, and where their x lie; and where y lies."""
    ((x, y), outer, inner), offsets = loops, ((0, *taps[:2]), (0, *taps[2:]))
    for at in itertools.product(range(outer[0]), range(inner[0])):
        x_at = x + sum(i * loop[1] for i, loop in zip(at, (outer, inner), strict=True))
        y_at = y + sum(i * loop[2] for i, loop in zip(at, (outer, inner), strict=True))
        rows, columns = (
            [
                tap
                for tap in range(3)
                if not (tap == 0 and low and i == 0) and not (tap == 2 and high and i == count - 1)
            ]
            for i, (count, _, _, low, high) in zip(at, (outer, inner), strict=True)
        )
        taps_at = [(3 * r + c, x_at + offsets[0][r] + offsets[1][c]) for r in rows for c in columns]
        yield taps_at, y_at


def weigh_nine(array, loops, taps, weights, start, ends, valid):
    (adds, relu), weights = ends, list(itertools.chain(*weights))
    for taps_at, to in nine_windows(loops, taps):
        total = load(array, to, valid) if adds else start
        for number, at in taps_at:
            total = total + load(array, at, valid) * weights[number]
        store(array, to, np.where(total < 0, 0, total) if relu else total, valid)


def multiply_nine(array, loops, taps, sums, start, ends, valid):
    sums = list(itertools.chain(*sums))
    for taps_at, to in nine_windows(loops, taps):
        for number, at in taps_at:
            sums[number] = sums[number] + load(array, at, valid) * load(array, to, valid)
    return sums[:3], sums[3:6], sums[6:]


def scatter_nine(array, loops, taps, weights, start, ends, valid):
    weights = list(itertools.chain(*weights))
    for taps_at, to in nine_windows(loops, taps):
        for number, at in taps_at:
            total = load(array, at, valid) + load(array, to, valid) * weights[number]
            store(array, at, total, valid)


VECTORS = {
    "lanes_of": lanes,
    "repeat": lambda a, count: a[np.arange(len(a)) % count] if count in (1, 2, 4, 8) else a,
    "load": load,
    "store": store,
    "store_whole": lambda array, at, values: store(array, at, values, lanes(array)),
    "prefetch": lambda array, at: None,
    "add": lambda a, b: a + np.asarray(b, a.dtype),
    "subtract": lambda a, b: a - b,
    "scale": lambda a, b: a * np.asarray(b, a.dtype),
    "multiply_add": lambda a, b, c: a * np.asarray(b, a.dtype) + c,
    "maximum": maximum,
    "zero_where_less": lambda a, x, y: np.where(x < y, 0, a),
    "zero_unless_less": lambda a, x, y: np.where(x < y, a, 0),
    "pair_maximum": pair_maximum,
    "weigh_nine": weigh_nine,
    "multiply_nine": multiply_nine,
    "weigh_exchanged": weigh_nine,
    "scatter_nine": scatter_nine,
    "route_to_first_maximum": route_to_first_maximum,
    "dots": dots,
    "_transpose_square": transpose_block,
    "_transpose_few_rows": transpose_block,
    "_transpose_few_columns": transpose_block,
}

functions = {}  # by the number that stands for their address
_call, _call_loss = call.call, call.call_loss


def compiled(function, *_):
    functions[id(function)] = function
    return SimpleNamespace(address=id(function))


@functools.cache
def by_address(count, real):
    """A compiled function that calls what is still compiled."""
    names = ", ".join(f"a{i}" for i in range(count))
    text = f"@njit\ndef through(address, {names}):\n    "
    text += f"real(address, ({names},))" if real is _call else f"return real(address, {names})"
    space = {"njit": njit, "real": real}
    exec(text, space)
    return space["through"]


class Table(list):
    """A plan whose records are plain objects, and which remembers where it came from."""

    def __init__(self, array):
        super().__init__(
            SimpleNamespace(**{name: record[name].tolist() for name in array.dtype.names})
            for record in array
        )
        self.array = array

    def __getitem__(self, key):
        if isinstance(key, slice):
            part = Table.__new__(Table)
            list.__init__(part, super().__getitem__(key))
            part.array = self.array[key]
            return part
        return super().__getitem__(key)


def spread(team, address, job, begin, end):
    for index in range(begin, end):
        functions[address]([job], index)


def call_any(address, arguments):
    if address in functions:
        return functions[address](*arguments)
    arguments = [a.array.view(call.RECORD) if isinstance(a, Table) else a for a in arguments]
    return by_address(len(arguments), _call)(address, *arguments)


def with_tables(arguments):
    """``arguments``, plans as the objects that `with_table` wants."""
    return [Table(a) if isinstance(a, np.ndarray) and a.dtype.names else a for a in arguments]


def with_table(function):
    """``function`` of a plan as an array, on its records as objects."""

    @functools.wraps(function)
    def given(*arguments):
        with np.errstate(all="ignore"):
            return function(*with_tables(arguments))

    return given


def make_plain():
    """The kernels of this process become plain Python."""
    modules = [importlib.import_module(f"minicnn.kernels.cpu.{name}") for name in MODULES]
    passes, step = (sys.modules[f"minicnn.kernels.cpu.{name}"] for name in ("passes", "step"))
    vectors = {**vars(vector), **vars(vector_sums)}
    swaps = {id(vectors[name]): new for name, new in VECTORS.items()}
    swaps |= {
        id(tile.multiply): multiply,
        id(call.compiled): compiled,
        id(call.call): call_any,
        id(call.call_loss): lambda address, *a: by_address(len(a), _call_loss)(address, *a),
        id(passes._check_types): lambda *_: None,
        id(beside.compile_beside): lambda *_: None,
        id(team.spread): spread,
        id(team.address_of): lambda job: job,
        id(call.denormals): lambda mode: mode,
        id(gather.opaque): lambda images: images,
    }
    old = {}
    for module in modules:
        old |= {
            id(value): (module, key)
            for key, value in vars(module).items()
            if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__
        }
    old |= {id(step.train_step): (step, "train_step"), id(infer.infer): (infer, "infer")}
    keep = [getattr(module, key) for module, key in old.values()]  # so that no id is given anew
    for module, name in zip(modules, MODULES, strict=True):
        plain(module, name, "@njit(")
    for module, name in ((step, "step"), (infer, "infer")):
        parallel = ast.parse(inspect.getsource(module))
        parallel.body = [
            Watch(name).visit(node)
            for node in parallel.body
            if isinstance(node, ast.FunctionDef) and "over_threads" in ast.unparse(node)
        ]
        exec(compile(ast.fix_missing_locations(parallel), module.__file__, "exec"), vars(module))
    for module in [
        m for name, m in sys.modules.items() if name.split(".")[0] in ("minicnn", "tests")
    ]:
        for key, value in list(vars(module).items()):
            if id(value) in old:
                home, name = old[id(value)]
                setattr(module, key, vars(home)[name])
            elif id(value) in swaps:
                setattr(module, key, swaps[id(value)])
            elif key in MACHINE and module.__name__ != "minicnn.program.operations":
                setattr(module, key, MACHINE[key])
    for name in ("forward", "forward_keep", "backward", "prepare"):
        setattr(passes, name, with_table(vars(passes)[name]))
    for module, name in ((infer, "infer"), (step, "train_step")):
        function = with_table(vars(module)[name])
        setattr(module, name, lambda threads, *a, function=function: function(0, *a))
    # By the calling thread alone; a packed job is the job.
    infer_one.pack, infer_one._job = (lambda *job: job), (lambda job, out: [with_tables(job)])
    infer_one.infer_one = infer_one.infer_one.py_func
    return keep


def examples(test, count):
    """The test of hypothesis with its own examples and ``count`` more, always the same."""
    test._hypothesis_internal_use_settings = settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    test()


def run_all():
    """The tests of `tests.kernels` against the oracle that take any geometry."""
    for test, count in (
        (test_passes.test_convolutions_of_any_geometry_equal_the_oracle, 40),
        (test_passes.test_depthwise_convolutions_of_any_geometry_equal_the_oracle, 40),
        (test_passes.test_grey_images_in_planes_equal_the_oracle, 15),
        (test_passes.test_pooling_of_any_geometry_equals_the_oracle, 40),
        (test_winograd.test_tiles_equal_the_oracle, 3),
        (test_graphs.test_graphs_of_any_layers_equal_the_oracle, 30),
    ):
        examples(test, count)
    for name in GEOMETRIES:
        for samples in (1, 3):
            test_graphs.test_graphs_that_reach_what_random_ones_seldom_do_equal_the_oracle(
                name, samples
            )
    for size in test_passes.DENSE:
        test_passes.test_dense_layers_of_any_size_equal_the_oracle(*size)
    for wrong in ("plan", "params", "work", "x", "logits", "number", "none"):
        test_passes.test_forward_refuses_what_does_not_fit_the_network(wrong)
    for layers in test_graphs.FROZEN:
        test_graphs.test_frozen_statistics_equal_the_oracle(layers)
    with pytest.MonkeyPatch.context() as patch:
        test_winograd.choose_everywhere(patch)
        test_winograd.test_the_first_layer_by_tiles_equals_the_oracle(None)
        test_winograd.test_filters_are_transformed_once_where_weights_never_change(
            None, np.float64, 9, 5
        )
        for parts in (False, True):
            test_batch_normalization.test_a_step_on_several_shards_is_the_oracles_on_the_whole_batch(
                2, parts, patch
            )
    test_batch_normalization.test_a_batch_of_one_number_leaves_the_running_variance()
    MACHINE["VECTOR_BYTES"] = 16  # two float64, as with NEON and SSE2
    sys.modules["minicnn.backends.cpu"].VECTOR_BYTES = 16
    vector.transpose(tile.Rows(np.arange(6.0), 0, 3), tile.Rows(np.zeros(6), 0, 2), 2, 3)


def main():
    make_plain()
    run_all()
    needed.update(
        (f"product: {height}x{vectors}{partial}", {True})
        for vectors, most in tile.BLOCK_ROWS.items()
        for height in range(1, most + 1)
        for partial in ("", " partial")
    )
    for place in [
        place
        for place in needed
        if place.startswith(NOT_BY_GEOMETRY) or place.endswith("def saved_size")
    ]:
        del needed[place]
    missed = {
        place: sorted(outcomes - seen.get(place, set())) for place, outcomes in needed.items()
    }
    watched = sum(map(len, needed.values()))
    missed = {place: outcomes for place, outcomes in missed.items() if outcomes}
    json.dump({"watched": watched, "missed": missed}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
