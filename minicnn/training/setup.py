"""What is to be trained and how: the network, the settings with every default filled in, and the
rules that they name."""

from dataclasses import replace
from typing import Any

from minicnn.backends import backend
from minicnn.errors import SettingError, UnknownNameError, short
from minicnn.evaluation.loss import Loss
from minicnn.inference import Model
from minicnn.network.initialization import methods_of
from minicnn.network.network import Network
from minicnn.plugins import find
from minicnn.rules import AnyOptimizer, LossRule, ScheduleRule, resolve
from minicnn.training.distributed import connect
from minicnn.training.schedules import find_schedule
from minicnn.training.settings import Settings, check_names
from minicnn.training.tensors import tensor_table


class Setup:
    """Resolves the names in ``settings`` and ``options``, which are the fields of `Settings`, and
    checks them against the network; for the arguments see `Trainer`.

    ``usual`` are the settings that the rules alone would give, and ``interrupted`` asks the run
    under way to save and end.
    """

    def __init__(
        self,
        network: Network | Model,
        settings: Settings | None = None,
        *,
        distributed: bool = False,
        **options: Any,
    ):
        check_names(options, "option of Trainer")
        if "epochs" in options and options.get("time_limit") is not None:
            raise SettingError("epochs and time_limit exclude each other")
        if not isinstance(network, Network | Model):
            raise SettingError(f"network must be a Network or a Model, not {short(network)}")
        if not isinstance(settings, Settings | None):
            raise SettingError(
                f"settings must be a Settings, such as recipe(), not {short(settings)}"
            )
        if "epochs" in options:  # they win over the settings
            options["time_limit"] = None
        rules: dict[str, Any] = {}
        for kind in ("optimizer", "loss", "schedule"):
            chosen = options.get(kind, getattr(settings or Settings(), kind))
            rules[kind] = find_schedule(chosen) if kind == "schedule" else find(kind, chosen)
            options[kind] = rules[kind].name
        self.init = network if isinstance(network, Model) else None
        whole = network.network if isinstance(network, Model) else network
        self.optimizer_rule: AnyOptimizer = rules["optimizer"]
        self.loss_rule: LossRule = rules["loss"]
        self.schedule_rule: ScheduleRule = rules["schedule"]
        self.network = whole
        self.usual = self._resolved(Settings(**{kind: rule.name for kind, rule in rules.items()}))
        self.settings = self._resolved(replace(settings or Settings(), **options))
        methods_of(whole, self.settings.initialization)
        if self.init is not None and self.settings.initialization:
            raise SettingError("initialization is for new weights, and a trained model has its own")
        self.network = whole.freeze(self.settings.freeze or ())
        backend(self.settings.device).resolve_threads(self.settings.threads)
        weights = self.settings.class_weights
        # Names are known when there are data.
        ones = [1.0] * self.network.outputs if weights else None
        self.make_loss(weights if isinstance(weights, list) else ones)
        if distributed and self.settings.time_limit is not None:
            raise SettingError("time_limit is for one process: with distributed, set epochs")
        self.ranks = connect() if distributed else None
        if self.ranks is not None and self.settings.device == "cuda":
            from minicnn.backends.gpu import choose

            choose(self.ranks.node_rank)
        self.interrupted = False

    def _resolved(self, settings: Settings) -> Settings:
        """``settings`` with the defaults of the rules filled in, so that they say all; checks the
        hyperparameters."""
        given = dict(settings.optimizer_kwargs)
        if settings.learning_rate is not None:
            given["learning_rate"] = settings.learning_rate
        owner = f"optimizer {self.optimizer_rule.name}"
        chosen = resolve(owner, self.optimizer_rule.hyperparameters, given)
        tensor_table(self.optimizer_rule, self.network, settings.decay, settings.factors)
        if settings.schedule_of not in chosen and settings.schedule_of != Settings.schedule_of:
            raise UnknownNameError(
                f"hyperparameter of {owner} for schedule_of", settings.schedule_of, chosen
            )
        schedule = resolve(
            f"schedule {self.schedule_rule.name}",
            self.schedule_rule.hyperparameters,
            settings.schedule_kwargs,
        )
        loss = resolve(
            f"loss {self.loss_rule.name}", self.loss_rule.hyperparameters, settings.loss_kwargs
        )
        return replace(
            settings,
            learning_rate=chosen.pop("learning_rate", None),
            optimizer_kwargs=chosen,
            loss_kwargs=loss,
            schedule_kwargs=schedule,
            horizon=(settings.horizon or settings.epochs)
            if self.schedule_rule.has_horizon
            else None,
        )

    def make_loss(self, class_weights: list[float] | None) -> Loss:
        """The loss of a run."""
        return Loss(
            self.loss_rule, self.network.outputs, class_weights, **self.settings.loss_kwargs
        )
