"""What a plugin hands over: plain data and undecorated Python functions, compiled elsewhere (``kernels/<device>``)."""

from minicnn.rules.hyperparameter import Hyperparameter, resolve
from minicnn.rules.loss_rule import LossRule
from minicnn.rules.optimizer_rule import AnyOptimizer, OptimizerRule, Step, StepRule, TensorRule
from minicnn.rules.schedule_rule import ScheduleRule

__all__ = ["AnyOptimizer", "Hyperparameter", "LossRule", "OptimizerRule", "ScheduleRule", "Step", "StepRule", "TensorRule",
           "resolve"]  # fmt: skip
