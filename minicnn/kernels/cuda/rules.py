"""Rules compiled for CUDA: an activation as two kernels, a loss as a kernel with a thread per sample,
an update as a kernel over all weights. The rules are the same as on the CPU
(`minicnn.kernels.generated`)."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types

from minicnn.errors import PluginError
from minicnn.kernels import common
from minicnn.kernels.cuda.call import digest, launchable
from minicnn.kernels.cuda.launches import Launch, each_gradient, each_output
from minicnn.kernels.cuda.step import INTEGER, NUMBERS, ROWS, TABLE
from minicnn.kernels.cuda.tile import SIMULATED, device
from minicnn.kernels.generated import arguments, check_activation, compile_rule, each, reason
from minicnn.rules import ActivationRule, AnyLayer, LossRule, OptimizerRule

INTEGERS = types.int64[::1]
LOSS = types.void(
    NUMBERS,
    INTEGER,
    INTEGER,
    INTEGER,
    INTEGERS,
    NUMBERS,
    INTEGERS,
    INTEGER,
    INTEGER,
    ROWS,
    NUMBERS,
    NUMBERS,
    ROWS,
    INTEGER,
    ROWS,
    INTEGER,
    ROWS,
    ROWS,
)
UPDATE = types.void(NUMBERS, NUMBERS, ROWS, ROWS, INTEGER, ROWS, ROWS, ROWS, TABLE)


@dataclass(frozen=True)
class Kernel:
    """A kernel made of a rule, as a plain function with its signature: `minicnn.kernels.cuda.call`
    launches it."""

    rule: str
    function: Callable[..., None]
    signature: Any
    scalars: int = 0  # how many scalars an optimizer's ``prepare`` must return

    def compile(self) -> None:
        """Compile it for the GPU, or load it from the disk; raises `PluginError` if the rule
        cannot be compiled."""
        try:
            launchable(self.function, self.signature)
        except Exception as error:
            raise PluginError(
                f"{self.rule} cannot be compiled for cuda: {reason(error)}"
            ) from error


_LOSS = '''\
from numba import cuda, float32
from minicnn.kernels.augment import PARTNER, SHARE
from minicnn.kernels.cuda.rules import largest
from minicnn.kernels.cuda.step import DIVISOR, block_sum
from minicnn.kernels.cuda.tile import THREADS


def compiled(work, logits_at, dlogits_at, outputs, labels, sample_weights, order, start, n, targets, class_weights,
             hyper, table, row, partials, first_group, views, mixed):
    """Loss and dlogits / divisor of n samples; sums of loss and right answers of a group of THREADS samples each.

    Where a view (one of each image, or one for all) has a partner, so has the loss; mixed [n, outputs] is scratch.
    """
    for group in range(cuda.blockIdx.x, (n + THREADS - 1) // THREADS, cuda.gridDim.x):
        i = group * THREADS + cuda.threadIdx.x
        loss, correct = float32(0), float32(0)
        if i < n:
            image = order[start + i]
            view = min(image, len(views) - 1)
            partner, share = int(views[view, PARTNER]), views[view, SHARE]
            weight = sample_weights[min(image, len(sample_weights) - 1)]  # or one for all
            logits = work[logits_at + i * outputs : logits_at + (i + 1) * outputs]
            dlogits = work[dlogits_at + i * outputs : dlogits_at + (i + 1) * outputs]
            for own in range({first}, 2):
                label = labels[image if own == 1 else partner]
                value = float32(rule(logits, {target}, dlogits, {class_weights} {hypers}))
                if own == 0:
                    loss = (float32(1) - share) * value
                    for k in range(outputs):
                        mixed[i, k] = (float32(1) - share) * dlogits[k]
                elif partner >= 0:
                    loss += share * value
                    for k in range(outputs):
                        dlogits[k] = share * dlogits[k] + mixed[i, k]
                else:
                    loss = value
            loss *= weight
            if largest(logits) == labels[image]:
                correct = float32(1)
            for k in range(outputs):
                dlogits[k] = dlogits[k] * weight / table[row, DIVISOR]
        loss = block_sum(loss)
        correct = block_sum(correct)
        if cuda.threadIdx.x == 0:
            partials[first_group + group, 0] = loss
            partials[first_group + group, 1] = correct
'''

_UPDATE = '''\
import numpy as np
from numba import cuda
from minicnn.kernels.cuda.rules import as_tuple
from minicnn.kernels.cuda.step import CLIP_VALUE, SCALARS, clipped, finish_reduction
from minicnn.kernels.cuda.vector import load4, store4


def compiled(params, grads, slots, table, row, squares, partials, results, spans):
    """Clip the gradient and update the weights of ``spans``, unless loss or gradient are not finite."""
    shrink, is_finite = finish_reduction(table, row, squares, partials, results)
    limit = table[row, CLIP_VALUE]
    if is_finite:
        for span in range(len(spans)):
            begin, end = spans[span, 0], spans[span, 1]
            scalars = table[row, SCALARS + spans[span, 2] * {count} :]
            {scalars}
            for i in range(begin + 4 * cuda.grid(1), end, 4 * cuda.gridsize(1)):
                p, g = load4(params, i, end), load4(grads, i, end)
                {load_slots}
                if shrink != 1 or limit > 0:
                    g = {clipped}
                    store4(grads, i, end, g)
                {updates}
                store4(params, i, end, {new_params})
                {store_slots}
'''

_FORWARD = '''\
import numpy as np


def compiled(op, params, work, i):
    """y = f(x)."""
    work[np.uint64(op.y + i)] = rule(work[np.uint64(op.x + i)], {hypers})
'''

_BACKWARD = '''\
import numpy as np
from minicnn.kernels.cuda.add import store


def compiled(op, params, work, i):
    """dx = f'(x) · dy."""
    dx = rule(work[np.uint64(op.{reads} + i)], {hypers}) * work[np.uint64(op.dy + i)]
    store(work, op.dx + i, dx, op.accumulate)
'''


@functools.cache
def rule_launches(rule: AnyLayer) -> dict[str, tuple[Launch, ...]] | None:
    """What is launched for the operation that is ``rule``; None if CUDA does not have it.

    Raises `PluginError` if the kernels cannot be made.
    """
    if not isinstance(rule, ActivationRule):
        return None
    hypers = range(len(rule.hyperparameters))
    kernels = {}
    for name, function, template, launch in (
        ("forward", rule.value, _FORWARD, each_output),
        ("backward", rule.derivative, _BACKWARD, each_gradient),
    ):
        check_activation(rule, function)
        source = template.format(reads=rule.reads, hypers=each("op.f{}", hypers))
        kernels[name] = (launch(_compile("layer", rule.name, function, source)),)
    return kernels


def compile_loss(rule: LossRule) -> Kernel:
    """The kernel of a loss, with the signature `LOSS`; raises `PluginError` if it cannot be
    made."""
    if arguments(rule.name, rule.row) != 3 + rule.class_weights + len(rule.hyperparameters):
        raise PluginError(f"loss {rule.name!r}: row does not take what the rule declares")
    source = _LOSS.format(
        target="label" if rule.target == "label" else "targets[label]",
        first="1 if partner < 0 else 0" if rule.soft else "1",
        class_weights="class_weights," if rule.class_weights else "",
        hypers=each("hyper[{}]", range(len(rule.hyperparameters))),
    )
    return Kernel(f"loss {rule.name!r}", _compile("loss", rule.name, rule.row, source), LOSS)


def compile_update(rule: OptimizerRule) -> Kernel:
    """The kernel of an elementwise rule, with the signature `UPDATE`; raises `PluginError` if it
    cannot be made."""
    slots, four = range(len(rule.slots)), range(4)
    count = arguments(rule.name, rule.update) - 2 - len(slots)
    scalars = each("c{}", range(count))
    updates = [
        f"p{k}, {each(f'n{{}}_{k}', slots)} = as_tuple(rule(p[{k}], g[{k}], {each(f's{{}}[{k}]', slots)} {scalars}))"
        for k in four
    ]
    source = _UPDATE.format(
        count=count,
        scalars="; ".join(f"c{k} = scalars[np.uint64({k})]" for k in range(count)) or "pass",
        load_slots="; ".join(f"s{k} = load4(slots[{k}], i, end)" for k in slots) or "pass",
        clipped=each("clipped(g[{}], shrink, limit)", four),
        updates="; ".join(updates),
        new_params=f"({each('p{}', four)})",
        store_slots="; ".join(
            f"store4(slots[{k}], i, end, ({each(f'n{k}_{{}}', four)}))" for k in slots
        )
        or "pass",
    )
    return Kernel(
        f"optimizer {rule.name!r}",
        _compile("optimizer", rule.name, rule.update, source),
        UPDATE,
        count,
    )


def _compile(kind: str, name: str, function: Any, source: str) -> Any:
    return compile_rule(kind, name, function, np.float32, source, digest(), device, {})


largest = device(common.largest)


def as_tuple(value: object) -> object:
    """Return a tuple as it is, and anything else as a tuple of one."""
    return value if isinstance(value, tuple) else (value,)


if not SIMULATED:
    from numba.cuda.extending import intrinsic

    @intrinsic
    def as_tuple(typing_context, value):
        """The same, compiled."""
        if isinstance(value, types.BaseTuple):
            return value(value), lambda context, builder, signature, values: values[0]
        single = types.UniTuple(value, 1)
        return single(value), lambda context, builder, signature, values: context.make_tuple(
            builder, single, values
        )
