"""Calls public functions with arrays that are wrong in every way, in a process of its own.

Each call must raise an error, or give the answer that the same call gives for a plain array of the
right dtype with the same values: never another answer, a number written elsewhere, or the end of
the process. Prints how many calls there were and how many were refused, as JSON; the seed is the
first argument, the number of calls the second.
"""

import json
import sys

import numpy as np
from numba import njit

import minicnn
from minicnn import Conv2d, Dense, Flatten, Loss, MaxPool2d, Model, Network, Optimizer, Passes, ReLU

GUARD = 4096  # numbers before and behind each array that is written to
RNG = np.random.default_rng(int(sys.argv[1]))
NETWORK = Network(
    (8, 6, 3),
    [Conv2d(4, 3, padding=1), ReLU(), MaxPool2d(2), Flatten(), Dense(5), ReLU(), Dense(3)],
)
PARAMS = NETWORK.initialize(np.random.default_rng(0))
MODEL = Model(NETWORK, PARAMS, ("a", "b", "c"), maximum=1.0, image_dtype="float32")
PLAN, FOLDED, WORK = MODEL.njit_arguments(2)
X = np.random.default_rng(1).random((4, 8, 6, 3)).astype(np.float32)
ROWS = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1])


@njit
def compiled_forward(plan, params, work, x, logits):
    minicnn.forward(plan, params, work, x, logits)


def through(forward):
    def call(params, work, x, logits):
        forward(PLAN, params, work, x, logits)
        return np.array(logits)

    return call


def backward(x, dlogits):
    passes = Passes(NETWORK, PARAMS, 4)
    passes.forward(x)
    return passes.backward(dlogits)


def by_operation(x, dlogits):
    passes = Passes(NETWORK, PARAMS, 4, by_operation=True)
    outputs = passes.forward_by_operation(x)
    return np.concatenate([y.ravel() for y in (*outputs, *passes.backward_by_operation(dlogits))])


def update(params, grads):
    Optimizer("momentum", NETWORK).update(params, grads)
    return params


# name: function, its arrays, and which of them it writes to
CALLS = {
    "forward": (through(minicnn.forward), (FOLDED, WORK, X, ROWS), (1, 3)),
    "forward in a user's function": (through(compiled_forward), (FOLDED, WORK, X, ROWS), (1, 3)),
    "Passes": (lambda params, x: Passes(NETWORK, params, 4).forward(x).copy(), (PARAMS, X), ()),
    "Passes.backward": (backward, (X, ROWS), ()),
    "Passes.backward_by_operation": (by_operation, (X, ROWS), ()),
    "Model": (lambda params: Model(NETWORK, params, ("a", "b", "c")).logits(X), (PARAMS,), ()),
    "Model.logits": (MODEL.logits, (X,), ()),
    "Model.predict": (MODEL.predict, (X,), ()),
    "Model.evaluate": (lambda x, t: MODEL.evaluate(x, t).accuracy, (X, LABELS), ()),
    "Loss": (lambda z, t: Loss("cross_entropy", 3)(z, t)[1], (ROWS, LABELS), ()),
    "Loss on values": (lambda z, t: Loss("mse", 3)(z, t)[1], (ROWS, ROWS[::-1].copy()), ()),
    "Optimizer.update": (update, (PARAMS, PARAMS * 2), (0,)),
}


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


MUTATIONS = {
    "as it is": lambda a: a,
    "short": lambda a: a[:-1].copy(),
    "one": lambda a: a[:1].copy(),
    "none": lambda a: a[:0].copy(),
    "long": lambda a: np.concatenate([a, a]),
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1],
    "transposed": lambda a: a.T,
    "another axis": lambda a: a[np.newaxis],
    "an axis more": lambda a: a[..., np.newaxis],
    "an axis less": lambda a: (
        a.reshape(len(a), -1)[:, 0].copy() if a.ndim > 1 else a[:1].reshape(())
    ),
    "flat": lambda a: a.ravel(),
    "narrow": lambda a: a[..., :-1].copy(),
    "wide": lambda a: np.concatenate([a, a], axis=-1),
    "channels first": lambda a: np.moveaxis(a, -1, 1).copy() if a.ndim == 4 else a,
    "a crop": lambda a: a[:, :-1].copy() if a.ndim > 1 else a[1:],
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "int64": lambda a: a.astype(np.int64),
    "uint8": lambda a: (a > 0).astype(np.uint8),
    "bool": lambda a: a > 0,
    "complex": lambda a: a.astype(np.complex64),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": read_only,
    "objects": lambda a: a.astype(object),
    "text": lambda a: a.astype(str),
    "a list": lambda a: a.tolist(),
    "nothing": lambda a: None,
    "fortran": np.asfortranarray,
    "negative": lambda a: -1 - a,
}


def guarded(array):
    """A copy of an array in the middle of a larger one, and a check that the rest is untouched."""
    around = np.full(array.nbytes + 8 * GUARD, 0xA5, np.uint8)
    inside = around[4 * GUARD : 4 * GUARD + array.nbytes].view(array.dtype).reshape(array.shape)
    inside[...] = array

    def check():
        assert (around[: 4 * GUARD] == 0xA5).all() and (around[-4 * GUARD :] == 0xA5).all()

    return inside, check


def plain(mutant, original):
    """What an argument means, as a plain array of the original's dtype."""
    return np.ascontiguousarray(np.asarray(mutant).astype(original.dtype))


def run(name, mutations):
    """Whether the call was refused; raises AssertionError for a silent wrong answer."""
    function, originals, written = CALLS[name]
    arguments, checks = [], []
    for k, (original, mutation) in enumerate(zip(originals, mutations, strict=True)):
        mutant = MUTATIONS[mutation](original)
        if k in written and isinstance(mutant, np.ndarray) and mutant.dtype.kind in "fiub":
            flags = mutant.flags
            if flags.c_contiguous and flags.writeable:
                mutant, check = guarded(mutant)
                checks.append(check)
            elif flags.writeable:
                mutant = mutant.copy("K")
        arguments.append(mutant)
    if "nothing" not in mutations:  # before the call writes to them
        meant = [plain(*pair) for pair in zip(arguments, originals, strict=True)]
        if name.startswith("Model.") and mutations[0] == "uint8":
            meant[0] /= 255  # a model's bytes are pictures
    try:
        answer = np.array(function(*arguments))
    except Exception:
        answer = None
    for check in checks:
        check()
    if answer is None:
        return True
    assert "nothing" not in mutations, f"{name}: None was taken"
    expected = np.array(function(*meant))  # raises if it is not right even so
    same = answer.shape == expected.shape and np.allclose(answer, expected, 1e-4, 1e-5)
    assert same, f"{name} with {mutations}: another answer"
    return False


def main():
    calls = refused = 0
    names, mutations = list(CALLS), list(MUTATIONS)
    every = [(name, k, m) for name in names for k in range(len(CALLS[name][1])) for m in mutations]
    for name, k, mutation in every:  # one wrong argument
        chosen = ["as it is"] * len(CALLS[name][1])
        chosen[k] = mutation
        print(name, chosen, file=sys.stderr, flush=True)
        refused += run(name, chosen)
        calls += 1
    for _ in range(int(sys.argv[2])):  # several
        name = names[RNG.integers(len(names))]
        chosen = [mutations[RNG.integers(len(mutations))] for _ in CALLS[name][1]]
        print(name, chosen, file=sys.stderr, flush=True)
        refused += run(name, chosen)
        calls += 1
    for name in names:  # and what is right is not refused
        assert not run(name, ["as it is"] * len(CALLS[name][1])), name
    print(json.dumps({"calls": calls, "refused": refused}))


main()
