"""An optimizer: a rule of any kind with its hyperparameters and the state it keeps between
steps."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minicnn.errors import PluginError, SettingError, UnknownNameError
from minicnn.memory import aligned_zeros, check_array, round_up
from minicnn.network.checks import integer
from minicnn.network.network import Network
from minicnn.plugins import find
from minicnn.rules import AnyOptimizer, OptimizerRule, StepRule, Tensor, resolve
from minicnn.training.tensors import Factors, tensor_table

Gradient = Callable[[np.ndarray], tuple[float, np.ndarray]]  # params -> (loss, grads)


class Optimizer:
    """A rule with its hyperparameters, slots and step count.

    ``rule`` is a name or a rule; hyperparameters not given have the rule's defaults. ``size`` is
    the network, or the length of a parameter vector, which is one tensor. ``decay="weights"`` keeps
    weight decay from biases, scales and shifts. ``factors``, such as ``{"learning_rate": {"shift":
    64, "conv1.*": 0.1}}``, multiply the learning rate or the weight decay of tensors of a kind, or
    whose name fits the pattern; the last one that fits counts. ``slots`` [slots, trained
    parameters] and ``state`` hold all that is remembered, also by the rules inside a `StepRule`:
    its slots as "rule.slot", its state as "rule.tensor.name", for every tensor apart. The state of
    a rule on elements has a number behind its name for every group of factors but the first. Raises
    `UnknownNameError` and `SettingError` for a wrong name or value.

    >>> optimizer = Optimizer("sgd", 2, learning_rate=0.5)
    >>> params, grads = np.array([1, 2], np.float32), np.array([1, -1], np.float32)
    >>> optimizer.update(params, grads)
    >>> params
    array([0.5, 2.5], dtype=float32)
    """

    def __init__(
        self,
        rule: str | AnyOptimizer,
        size: int | Network,
        dtype: Any = np.float32,
        device: str = "cpu",
        decay: str = "all",
        factors: Factors | None = None,
        /,
        **hyperparameters: float,
    ):
        self.rule = find("optimizer", rule)
        if not isinstance(size, Network):
            integer("Optimizer", "size", size)
        self.hyperparameters = resolve(
            f"optimizer {self.rule.name}", self.rule.hyperparameters, hyperparameters
        )
        self.step, self.size = 0, size.trainable_size if isinstance(size, Network) else size
        self.tensors = tensor_table(self.rule, size, decay, factors or {})
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for tensor in self.tensors:
            groups.setdefault(_factors(tensor), []).append(tensor)
        self.spans, self._groups = self.spans_of(list(groups.values())), list(groups)
        alone = isinstance(self.rule, OptimizerRule)
        self.state = {
            _of_group(row, name): value
            for row in range(len(groups) if alone else 1)
            for name, value in self.rule.state
        }
        self.slot_names = list(self.rule.slots)
        self._rules, self._device = self._bases(), device
        for name, base in self._rules.items():
            if base is not self.rule:
                self.slot_names += [f"{name}.{slot}" for slot in base.slots]
                self.state |= {
                    f"{name}.{tensor.name}.{key}": value
                    for tensor in self.tensors
                    for key, value in (*base.state, ("step", 0.0))
                }
        self.slots: np.ndarray = aligned_zeros((len(self.slot_names), self.size), dtype)

    def spans_of(self, groups: Sequence[Sequence[Tensor]]) -> np.ndarray:
        """[count, (begin, end, row)]: where in a vector the tensors of a group lie, with the gaps
        behind; its number."""
        spans: list[list[int]] = []
        for tensor, row in sorted(
            ((tensor, row) for row, group in enumerate(groups) for tensor in group),
            key=lambda place: place[0].offset,
        ):
            end = min(tensor.offset + round_up(tensor.size), self.size)
            if spans and spans[-1][1:] == [tensor.offset, row]:
                spans[-1][1] = end
            else:
                spans.append([tensor.offset, end, row])
        return np.array(spans, np.int64).reshape(-1, 3)

    @functools.cached_property
    def backend(self) -> Any:
        """The backend of its device."""
        from minicnn.backends import backend

        return backend(self._device)

    @functools.cached_property
    def vectors(self) -> Any:
        """The slots where the device has them: made of ``slots`` when they are first needed."""
        return self.slots if self._device == "cpu" else self.backend.to_device(self.slots)

    @functools.cached_property
    def _parts(self) -> "dict[str, _Part]":
        return {name: _Part(self, name, base) for name, base in self._rules.items()}

    @functools.cached_property
    def _work(self) -> "_Step":
        assert isinstance(self.rule, StepRule)
        return _Step(self, self.rule)

    def fetch(self) -> None:
        """Copy the slots from the device into ``slots``."""
        self.backend.to_host(self.vectors, self.slots)

    def trained(self, vector: Any) -> Any:
        """The trained part of a flat vector; state, such as running means, follows it."""
        return vector if vector.size == self.size else vector[: self.size]

    def _bases(self) -> dict[str, OptimizerRule]:
        """The elementwise rules by name: those that a `StepRule` uses, else the rule itself."""
        if not isinstance(self.rule, StepRule):
            return {self.rule.name: self.rule}
        bases: dict[str, OptimizerRule] = {}
        for given in self.rule.bases:
            base = find("optimizer", given)
            if isinstance(base, StepRule) or base.name in bases:
                wrong = "is a StepRule" if isinstance(base, StepRule) else "is there twice"
                raise PluginError(f"optimizer {self.rule.name}: the base {base.name} {wrong}")
            bases[base.name] = base
        return bases

    def compile(self) -> None:
        """Compile what a step needs, or load it from the disk; raises `PluginError` if that
        fails."""
        for part in self._parts.values():
            part.compiled  # noqa: B018
        if isinstance(self.rule, StepRule):
            one, other = (
                self.backend.to_device(np.zeros((1, 1), self.slots.dtype)) for _ in range(2)
            )
            self._work.axpy(self._work.norm(one) * self._work.dot(one, one), one, one)
            self._work.scale(0.0, one)
            self._work.matmul(one, one, other)

    def scalars(self, **scheduled: float) -> np.ndarray:
        """Begin the next step of an elementwise rule: what it computes once for all elements, with
        what is scheduled.

        A row [S] for the tensors of the same factors: ``spans`` says which is whose. Each row has
        the rule's state for itself.
        """
        self.step += 1
        part, values, prepared = self._parts[self.rule.name], self.hyperparameters | scheduled, []
        for row, factors in enumerate(self._groups):
            own = {name: self.state[_of_group(row, name)] for name, _ in self.rule.state}
            prepared.append(part.prepare(self.step, values, own, factors))
            self.state.update((_of_group(row, name), own[name]) for name, _ in self.rule.state)
        return part.rows(prepared)

    def update(self, params: np.ndarray, grads: np.ndarray | Gradient, **scheduled: float) -> None:
        """One step in place, with the hyperparameters that are ``scheduled`` at other values than
        usual.

        ``grads`` [size] is only read; a function ``grads(params) -> (loss, grads)`` serves also the
        rules that ask for the gradient at another point. What lies behind the trained parameters
        stays as it is.
        """
        if self._device == "cpu":
            self._check("params", params, True)
            if not callable(grads):
                grads = np.ascontiguousarray(grads, self.slots.dtype)
                self._check("grads", grads, False)
        if isinstance(self.rule, StepRule):
            self.step += 1
            self._work.run(self.step, self.hyperparameters | scheduled, params, grads)
        else:
            gradient = grads(params)[1] if callable(grads) else grads
            if callable(grads) and self._device == "cpu":
                self._check("the gradient", gradient, False)
            part = self._parts[self.rule.name]
            part.compiled(params, gradient, part.slots, self.scalars(**scheduled), self.spans)

    def _check(self, name: str, vector: np.ndarray, writable: bool) -> None:
        """Raise `SettingError` unless ``vector`` has room for what is trained."""
        shape = (max(self.size, np.size(vector)),)
        check_array(name, vector, shape, self.slots.dtype, writable)

    def evaluation(self, params: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out`` [size] with the weights to use: those of the rule's ``evaluation`` if it has
        one, else ``params``."""
        self.backend.copy(params, out)
        if isinstance(self.rule, StepRule) and self.rule.evaluation is not None and self.step:
            self._work.number, self._work.params = self.step, self.trained(params)
            self.rule.evaluation(self._work, self.trained(out))


def _factors(tensor: Tensor) -> tuple[float, float]:
    return tensor.learning_rate, tensor.weight_decay


def _of_group(row: int, name: str) -> str:
    """The name in `Optimizer.state` of the state that a rule keeps for a group of tensors."""
    return f"{name}.{row}" if row else name


class _Part:
    """An elementwise rule with its share of an optimizer's slots and state."""

    def __init__(self, owner: Optimizer, name: str, rule: OptimizerRule):
        self.rule, self.owner = rule, owner
        prefix = "" if rule is owner.rule else f"{name}."
        first = owner.slot_names.index(prefix + rule.slots[0]) if rule.slots else 0
        self.slots = owner.vectors[first : first + len(rule.slots)] if rule.slots else owner.vectors
        self._keys = {
            tensor: tuple(f"{name}.{tensor.name}.{key}" for key in ("step", *dict(rule.state)))
            for tensor in owner.tensors
        }

    @functools.cached_property
    def compiled(self) -> Callable[..., None]:
        compiled: Callable[..., None] = self.owner.backend.CompiledUpdate(
            self.rule, self.slots.dtype
        )
        return compiled

    def prepare(
        self,
        step: int,
        values: dict[str, float],
        own: dict[str, float],
        factors: tuple[float, float],
    ) -> tuple[float, ...]:
        """The scalars of one step; ``own`` is the rule's state, which changes."""
        pairs = zip(("learning_rate", "weight_decay"), factors, strict=True)
        changed = {name: values[name] * factor for name, factor in pairs if name in values}
        return self.rule.prepare(step, own, **values | changed)

    def rows(self, prepared: list[tuple[float, ...]]) -> np.ndarray:
        """[rows, S] of what `prepare` returned."""
        try:
            with np.errstate(over="ignore"):  # what is beyond its numbers diverges, and is told
                return np.array(prepared, self.slots.dtype).reshape(len(prepared), -1)
        except (TypeError, ValueError):
            raise PluginError(
                f"optimizer {self.rule.name}: prepare must return numbers, not {prepared[0]!r}"
            ) from None

    def update(
        self, tensors: Iterable[Tensor], values: dict[str, float], params: Any, grads: Any
    ) -> None:
        """The next step of each of ``tensors``: those at the same step in the same state are
        prepared together."""
        groups: dict[tuple[float, ...], list[Tensor]] = {}
        for tensor in dict.fromkeys(tensors):
            state = (self.owner.state[key] for key in self._keys[tensor])
            groups.setdefault((*_factors(tensor), *state), []).append(tensor)
        prepared = []
        for (rate, decay, step, *numbers), group in groups.items():
            own = dict(zip(dict(self.rule.state), numbers, strict=True))
            prepared.append(self.prepare(int(step) + 1, values, own, (rate, decay)))
            kept = step + 1, *(own[name] for name, _ in self.rule.state)
            for tensor in group:
                self.owner.state.update(zip(self._keys[tensor], kept, strict=True))
        if prepared:
            self.compiled(
                params,
                grads,
                self.slots,
                self.rows(prepared),
                self.owner.spans_of(list(groups.values())),
            )


class _Step:
    """What a `StepRule` works with; the protocol `minicnn.rules.Step` says what the names mean."""

    def __init__(self, owner: Optimizer, rule: StepRule):
        self._owner, self._rule = owner, rule
        self.state, self.tensors = owner.state, owner.tensors
        self.slots: dict[str, Any] = {
            name: owner.vectors[k] for k, name in enumerate(owner.slot_names)
        }
        empty = np.zeros(owner.size, owner.slots.dtype)
        to_device = np.copy if owner._device == "cpu" else owner.backend.to_device
        self.scratch: dict[str, Any] = {name: to_device(empty) for name in rule.scratch}
        self.number = 0
        self.hyper = owner.hyperparameters
        self.params: Any = None
        self.grads: Any = None

    def run(
        self,
        number: int,
        hyper: dict[str, float],
        params: np.ndarray,
        source: np.ndarray | Gradient,
    ) -> None:
        """One step."""
        self.number, self.hyper, self.params, self.grads = (
            number,
            hyper,
            self._owner.trained(params),
            None,
        )
        self._flat, self._source = params, source
        self._rule.step(self)
        if self.grads is None:
            raise PluginError(f"optimizer {self._rule.name}: step must call gradient()")

    def gradient(self) -> float:
        if not callable(self._source) and self.grads is not None:
            asks = f"optimizer {self._rule.name} asks for the gradient at another point"
            raise SettingError(f"{asks}: grads must be a function of params")
        loss, grads = (
            self._source(self._flat) if callable(self._source) else (float("nan"), self._source)
        )  # nobody knows
        self.grads = self._owner.trained(grads)
        return loss

    def update(
        self, base: str, tensors: str | Iterable[Tensor] = "all", **hyperparameters: float
    ) -> None:
        if base not in self._owner._parts:
            raise UnknownNameError(f"base of optimizer {self._rule.name}", base, self._owner._parts)
        if self.grads is None:
            raise PluginError(
                f"optimizer {self._rule.name}: step must call gradient() before update()"
            )
        part = self._owner._parts[base]
        values = {
            hyper.name: self.hyper.get(hyper.name, hyper.default)
            for hyper in part.rule.hyperparameters
        }
        for name in hyperparameters:
            if name not in values:
                raise UnknownNameError(f"hyperparameter of {base}", name, values)
        if isinstance(tensors, str):
            if tensors not in ("all", "matrices", "others"):
                raise UnknownNameError("choice of tensors", tensors, ("all", "matrices", "others"))
            chosen = tensors
            tensors = [
                tensor
                for tensor in self.tensors
                if chosen == "all" or tensor.is_matrix is (chosen == "matrices")
            ]
        part.update(tensors, values | hyperparameters, self.params, self.grads)

    def matrix(self, x: Any, tensor: Tensor, shape: tuple[int, int] | None = None) -> Any:
        rows, columns = shape or tensor.matrix_shape
        if rows * columns > tensor.size:
            raise self._wrong(
                f"{tensor.name}, {tensor.size} numbers, has no room for a matrix", (rows, columns)
            )
        return x[tensor.offset : tensor.offset + rows * columns].reshape(rows, columns)

    def axpy(self, factor: float, x: Any, y: Any) -> None:
        self._check_same(x, y)
        self._owner.backend.axpy(factor, x, y)

    def scale(self, factor: float, x: Any) -> None:
        self._owner.backend.scale(factor, x)

    def copy(self, x: Any, y: Any) -> None:
        self._check_same(x, y)
        self._owner.backend.copy(x, y)

    def norm(self, x: Any) -> float:
        return float(self._owner.backend.norm(x))

    def dot(self, x: Any, y: Any) -> float:
        self._check_same(x, y)
        return float(self._owner.backend.dot(x, y))

    def matmul(
        self, a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False
    ) -> None:
        (rows, inner), (b_rows, columns) = (
            a.shape[:: -1 if transpose_a else 1],
            b.shape[:: -1 if transpose_b else 1],
        )
        if inner != b_rows or (rows, columns) != out.shape:
            raise self._wrong("matmul cannot multiply", (rows, inner), (b_rows, columns), out.shape)
        self._owner.backend.matmul(a, b, out, bool(transpose_a), bool(transpose_b))

    def _check_same(self, x: Any, y: Any) -> None:
        if x.shape != y.shape:
            raise self._wrong("vectors and matrices must be of one shape, not", x.shape, y.shape)

    def _wrong(self, what: str, *shapes: tuple[int, ...]) -> PluginError:
        return PluginError(
            f"optimizer {self._rule.name}: {what} {', '.join(str(list(shape)) for shape in shapes)}"
        )
