"""The table of the tensors that an optimizer trains, with the factors of each."""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from minicnn.errors import SettingError, UnknownNameError
from minicnn.network.network import Network
from minicnn.rules import AnyOptimizer, Hyperparameter, StepRule, Tensor

DECAY = ("all", "weights")  # tensors that ``weight_decay`` may pull
Factors = Mapping[str, Mapping[str, float]]  # hyperparameter: {kind of tensor or pattern: factor}
_KINDS = ("weight", "bias", "scale", "shift")


def tensor_table(
    rule: AnyOptimizer, size: int | Network, decay: str, factors: Factors
) -> tuple[Tensor, ...]:
    """The trained tensors, in the order of the layers, with what `Optimizer` says of ``decay`` and
    ``factors``.

    Raises `SettingError` for what is no factor or changes nothing of ``rule``, `UnknownNameError`
    for what fits no tensor.
    """
    if decay not in DECAY:
        raise SettingError(f"decay must be {' or '.join(DECAY)}, not {decay!r}")
    if decay != "all" and "weight_decay" not in [hyper.name for hyper in rule.hyperparameters]:
        raise SettingError(
            f"optimizer {rule.name} has no weight_decay: decay must be all, not {decay!r}"
        )
    table = _table(size)
    spared = dict.fromkeys(_KINDS[1:], 0.0) if decay == "weights" else {}
    for name in ("learning_rate", "weight_decay"):
        given = factors.get(name, {})
        if given and name not in [hyper.name for hyper in rule.hyperparameters]:
            raise SettingError(f"optimizer {rule.name} has no {name}, so it has no factors")
        if given and isinstance(rule, StepRule) and not rule.by_tensor:
            raise SettingError(f"optimizer {rule.name} does not take factors of {name} by tensor")
        known = [*_KINDS, *(tensor.name for tensor in table)]
        for pattern, factor in given.items():
            Hyperparameter(pattern, 1.0, 0.0).check(f"factors of {name}", factor)
            if not any(fnmatchcase(one, pattern) for one in known):
                raise UnknownNameError("tensor or kind of tensor", pattern, known)
        if name == "weight_decay":
            given = spared | dict(given)
        for pattern, factor in given.items():
            changed: dict[str, Any] = {name: float(factor)}
            table = [
                replace(tensor, **changed)
                if pattern == tensor.kind or fnmatchcase(tensor.name, pattern)
                else tensor
                for tensor in table
            ]
    return tuple(table)


def _table(size: int | Network) -> list[Tensor]:
    """The trained tensors, in the order of the layers; not those of frozen layers."""
    if not isinstance(size, Network):
        return [Tensor("params", (size,), "weight", 0, 1, True, True, 1.0, 1.0, 0)]
    specs = [spec for spec in size.parameters if spec.offset < size.trainable_size]
    fan_in = {spec.layer: prod(spec.shape[:-1]) for spec in specs if spec.kind == "weight"}
    first, last = (end(fan_in, default=-1) for end in (min, max))
    return [
        Tensor(
            spec.name,
            spec.shape,
            spec.kind,  # type: ignore[arg-type]
            spec.layer,
            fan_in.get(spec.layer, 1),
            spec.layer == first,
            spec.layer == last,
            1.0,
            1.0,
            spec.offset,
        )
        for spec in specs
        if spec.layer not in size.frozen
    ]
