"""A recipe in PyTorch: minicnn's network, first weights, loss, optimizer with its groups of tensors,
and moving average of the weights."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from minicnn.data.normalization import scaled
from minicnn.training.run import Run
from peers.torch_graph import to_torch

# minicnn's name: PyTorch's class, and its arguments by minicnn's hyperparameters.
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], Callable[[dict[str, float]], dict]]] = {
    "adamw": (AdamW, lambda h: {"betas": (h["beta1"], h["beta2"]), "eps": h["epsilon"]}),
    "sgd": (SGD, lambda h: {}),
    "momentum": (SGD, lambda h: {"momentum": h["momentum"], "dampening": h["dampening"]}),
    "nesterov": (SGD, lambda h: {"momentum": h["momentum"], "nesterov": True}),
}
ROWS = 1000  # test images that are classified together


class TorchRecipe:
    """The model of ``run``, not yet trained, and its steps; raises SystemExit for what has no
    counterpart here. `logits` is that of minicnn's inference, by the averaged weights if there are
    any."""

    params = None  # what `minicnn.data.tta.Averaged` asks an inference for

    def __init__(self, run: Run, layout: torch.memory_format):
        settings, optimizer = run.settings, run.optimizer
        changes = settings.clip_grad, settings.clip_grad_value, settings.class_weights
        if (
            settings.optimizer not in OPTIMIZERS
            or settings.loss != "cross_entropy"
            or settings.schedule_of != "learning_rate"
            or run.inputs.augment.mixes
            or changes != (None, None, None)
        ):
            raise SystemExit(
                f"PyTorch's side knows {', '.join(OPTIMIZERS)} and cross_entropy; no images that are mixed, "
                "clipped gradients, class weights, or schedule of another hyperparameter"
            )
        self.layout, self.smoothing = layout, settings.loss_kwargs.get("label_smoothing", 0.0)
        self.model = to_torch(run.network, run.progress.params).train().to(memory_format=layout)
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for tensor, parameter in zip(optimizer.tensors, self.model.parameters(), strict=True):
            groups.setdefault((tensor.learning_rate, tensor.weight_decay), []).append(parameter)
        kind, arguments = OPTIMIZERS[settings.optimizer]
        hyper = optimizer.hyperparameters
        self.optimizer = kind(
            [
                {"params": group, "factor": rate, "weight_decay": decay * hyper["weight_decay"]}
                for (rate, decay), group in groups.items()
            ],
            lr=hyper["learning_rate"],
            fused=True,
            **arguments(hyper),
        )
        self.averaged: AveragedModel | None = None
        if settings.ema is not None:
            average = get_ema_multi_avg_fn(settings.ema)
            self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    def tensors(self, images: np.ndarray) -> torch.Tensor:
        """Images [n, H, W, C] as PyTorch reads them."""
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)

    def step(self, x: torch.Tensor, labels: torch.Tensor, rate: float) -> None:
        """One step with the learning rate ``rate``."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad()
        cross_entropy(self.model(x), labels, label_smoothing=self.smoothing).backward()
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def logits(self, images: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
        """[N, outputs] of ``images`` [N, H, W, C], which ``scale`` scales."""
        model = (self.averaged or self.model).eval()
        with torch.inference_mode():
            parts = [
                model(self.tensors(scaled(images[first : first + ROWS], scale))).numpy()
                for first in range(0, len(images), ROWS)
            ]
        model.train()
        return np.concatenate(parts)
