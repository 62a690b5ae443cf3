"""A search over settings: each trial is a run, and Optuna (extra ``search``) chooses and prunes."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from minicnn.data.augment import Augment
from minicnn.errors import MissingExtraError, SettingError, UnknownNameError
from minicnn.kinds import COUNT, FLAG, INDEX, PATTERNS, SIZE, TABLE
from minicnn.training.events import EpochDone, Event, RunEnded
from minicnn.training.settings import BELONGS, Settings
from minicnn.training.trainer import Trainer

# Without what a schedule plans for, which is no option.
_FIELDS = {one.name: one for one in fields(Settings) if one.metadata["help"]}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER}):({_NUMBER})")


@dataclass(frozen=True)
class Dimension:
    """What one setting is varied over: ``choices``, or the range from ``low`` to ``high``."""

    name: str  # a setting, or the value of a table, such as optimizer_kwargs.beta1
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def suggest(self, trial: Any) -> Any:
        """The value of an Optuna trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        draw = trial.suggest_int if whole else trial.suggest_float
        return draw(self.name, self.low, self.high, log=self.log)


def dimension(text: str) -> Dimension:
    """The dimension that ``learning_rate=log:1e-4:1e-1``, ``ema=0.9:0.999`` or
    ``batch_size=32,64,128`` means.

    Any setting of `Settings` can be varied, a value of its tables with a dot, as in
    ``optimizer_kwargs.beta1=0.8:0.99``; weight_decay and momentum are those of the optimizer. A
    range of whole numbers gives whole ones for a setting that is one.

    >>> dimension("batch-size=32,64").choices, dimension("learning_rate=log:1e-3:0.1").log
    ((32, 64), True)
    """
    given, equals, values = text.partition("=")
    name = given.replace("-", "_")
    name = {"lr": "learning_rate", "opt": "optimizer", "sched": "schedule"}.get(name, name)
    if name in ("weight_decay", "momentum"):
        name = f"optimizer_kwargs.{name}"
    table, dot, key = name.partition(".")
    if table not in _FIELDS:
        raise UnknownNameError("setting to vary", table, _FIELDS)
    kind = _FIELDS[table].metadata["kind"]
    if not (equals and values) or bool(dot) != (kind is TABLE) or (dot and not key):
        wanted = (
            f"{name}.KEY=..."
            if kind is TABLE and not dot
            else f"{name}=log:LOW:HIGH, LOW:HIGH or A,B,C"
        )
        raise SettingError(f"vary must look like {wanted}, not {text!r}")
    found = _RANGE.fullmatch(values)
    if found is None:
        choices = tuple(_value(one, kind) for one in values.split(","))
        for one in choices if kind is not TABLE else ():
            with_values(Settings(), {name: one})
        return Dimension(name, choices)
    usual = getattr(Augment, key, None) if table == "augment" else None
    whole = kind in (COUNT, INDEX) or type(usual) is int
    number: Callable[[str], float] = int if whole else float
    try:
        low, high = number(found[2]), number(found[3])
    except ValueError:
        raise SettingError(f"vary {name}: {kind.words}, not {values!r}") from None
    if not low < high or (found[1] and low <= 0):
        raise SettingError(
            f"vary {name}: the range must go up{' from above 0' * bool(found[1])}, not {values!r}"
        )
    for end in (low, high) if kind is not TABLE else ():
        with_values(Settings(), {name: end})
    return Dimension(name, (), low, high, bool(found[1]))


def _value(text: str, kind: Any) -> Any:
    """One choice: a number, true or false, none, or a word."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words and (kind is FLAG or kind is TABLE or text.lower() == "none"):
        return words[text.lower()]
    for number in (int, float):
        try:
            return text if kind.type in (str, list) else number(text)
        except ValueError:
            continue
    return text


def with_values(base: Settings, values: Mapping[str, Any]) -> Settings:
    """``base`` with the values of a trial; what belonged to another optimizer, loss or schedule is
    left out."""
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if "." not in name:
            kind = _FIELDS[name].metadata["kind"]
            changed[name] = value
            if kind is PATTERNS and value is not None:
                changed[name] = value.split("+")
            elif kind is SIZE and value is not None:
                sides = value.split("x")
                if len(sides) < 3 and all(side.isdecimal() for side in sides):
                    changed[name] = [int(sides[0]), int(sides[-1])]
    if "epochs" in changed:
        if base.time_limit is not None:
            raise SettingError("epochs and time_limit exclude each other: vary one of them")
        changed["horizon"] = None
    for rule, own in BELONGS.items():
        if rule in changed and changed[rule] != getattr(base, rule):
            changed = own | changed
    for name, value in values.items():
        table, dot, key = name.partition(".")
        if dot:
            changed[table] = {**changed.get(table, getattr(base, table)), key: value}
    return replace(base, **changed)


def open_study(storage: str, seed: int, prune: bool, maximize: bool, begins: bool = True) -> Any:
    """The Optuna study in ``storage``, a URL of a database, made if it is not there.

    Where a search ``begins``, what a killed process left running there has failed. Raises
    `MissingExtraError` without Optuna.
    """
    try:
        import optuna
        from sqlalchemy.pool import NullPool
    except ImportError:
        raise MissingExtraError("search", "the package optuna", "search") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    done = 0
    try:
        # A file's connections are closed after use, and not when Python finds time.
        options = {"poolclass": NullPool} if storage.startswith("sqlite") else {}
        database = optuna.storages.RDBStorage(storage, options)
        done = len(optuna.load_study(study_name="minicnn", storage=database).trials)
    except KeyError:  # a new one
        pass
    except Exception as error:  # of SQLAlchemy or its driver
        raise SettingError(f"storage {storage} cannot be opened: {error!r:.200}") from None
    study = optuna.create_study(
        storage=database,
        study_name="minicnn",
        direction="maximize" if maximize else "minimize",
        sampler=optuna.samplers.TPESampler(seed=(seed + done) % 2**32),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=1)
        if prune
        else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]) if begins else []:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def ended(study: Any) -> int:
    """The number of trials that ended by themselves: neither interrupted nor killed."""
    return sum(
        one.value is not None or one.user_attrs.get("reason") == "diverged" for one in study.trials
    )


def run_trial(
    study: Any,
    dimensions: Sequence[Dimension],
    prepare: Callable[[Mapping[str, Any]], tuple[Trainer, Any]],
    folder: Path,
    watch: Callable[[Trainer, Event], None],
) -> Any:
    """One more trial of ``study``, in a folder of its own; returns Optuna's record of it.

    ``prepare`` gives trainer and data set for the trial's values; ``watch`` sees every event. The
    trial's value is the best validation accuracy, or for values the least loss; it is reported
    after each epoch, and where the study says so, the run ends there, pruned.
    """
    from optuna.trial import TrialState

    trial = study.ask()
    values = {one.name: one.suggest(trial) for one in dimensions}
    best: float | None = None
    state = TrialState.FAIL
    try:
        trainer, dataset = prepare(values)
        place = folder / f"trial-{trial.number}"
        for event in trainer.run(dataset, place):
            watch(trainer, event)
            if isinstance(event, EpochDone):
                score = _score(event, dataset.task == "classification")
                better = max if study.direction.name == "MAXIMIZE" else min
                best = score if best is None else better(best, score)
                trial.report(score, event.epoch)
                if trial.should_prune():
                    state = TrialState.PRUNED
                    break
            elif isinstance(event, RunEnded):
                trial.set_user_attr("reason", event.reason)
                if event.reason not in ("diverged", "interrupted"):
                    state = TrialState.COMPLETE
    except Exception as error:
        study.tell(trial, state=TrialState.FAIL)
        if isinstance(error, SettingError):
            raise SettingError(f"trial {trial.number} with {values}: {error}") from None
        raise
    done = best if state is TrialState.COMPLETE else None
    study.tell(trial, done, state=state)
    return study.trials[trial.number]


def _score(done: EpochDone, has_classes: bool) -> float:
    accuracy, loss = done.validation_accuracy, done.validation_loss
    if has_classes:
        return float(done.train_accuracy if accuracy is None else accuracy)
    return float(done.train_loss if loss is None else loss)
