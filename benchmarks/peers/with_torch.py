"""PyTorch: contiguous and channels last, with the fused Adam, and on demand through
torch.compile."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from peers.jobs import InferenceJob, Peer, TrainingJob
from peers.layout import to_nchw
from peers.torch_graph import to_torch


def training(layout: torch.memory_format, compiled: bool, job: TrainingJob) -> Callable[[], float]:
    """A call that makes the next training step on ready-made float32 batches."""
    torch.set_num_threads(job.threads)
    model: nn.Module = to_torch(job.network, job.params).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    if compiled:
        model = torch.compile(model)
    x = torch.from_numpy(to_nchw(job.images[: job.batches * job.batch]))
    batches = [part.contiguous(memory_format=layout) for part in x.split(job.batch)]
    labels = torch.from_numpy(job.labels[: len(x)]).split(job.batch)
    count = 0

    def next_step() -> float:
        nonlocal count
        images, truth = batches[count % len(batches)], labels[count % len(batches)]
        count += 1
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(images), truth)
        loss.backward()
        optimizer.step()
        return loss.item()

    return next_step


def inference(
    layout: torch.memory_format, compiled: bool, job: InferenceJob
) -> Callable[[], np.ndarray]:
    """The model on a ready-made float32 batch, in inference mode."""
    torch.set_num_threads(job.threads)
    model: nn.Module = to_torch(job.network, job.params).to(memory_format=layout).eval()
    if compiled:
        model = torch.compile(model)
    x = torch.from_numpy(to_nchw(job.images)).contiguous(memory_format=layout)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return model(x).numpy()

    return call


def training_in_bfloat16(job: TrainingJob) -> Callable[[], float]:
    """As `training`, by channels last and autocast: products in bfloat16, weights in float32."""
    step = training(torch.channels_last, False, job)

    def next_step() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return step()

    return next_step


def inference_in_bfloat16(job: InferenceJob) -> Callable[[], np.ndarray]:
    """As `inference`, by channels last, the weights and all values in bfloat16."""
    torch.set_num_threads(job.threads)
    model = to_torch(job.network, job.params).eval()
    model = model.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    x = torch.from_numpy(to_nchw(job.images)).to(torch.bfloat16, memory_format=torch.channels_last)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return model(x).float().numpy()

    return call


def _has_bfloat16() -> bool:
    """Whether the processor multiplies it, which Linux says, and oneDNN may; held to less it would
    convert every number."""
    about, held = Path("/proc/cpuinfo"), "ONEDNN_MAX_CPU_ISA" in os.environ
    flags = about.read_text().split() if about.exists() and not held else []
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def peers(with_compile: bool) -> list[Peer]:
    """The settings that are worth comparing with: contiguous or channels last is faster, depending
    on the network."""
    layouts = {
        "torch contiguous": torch.contiguous_format,
        "torch channels last": torch.channels_last,
    }
    found = [
        Peer(name, partial(training, layout, False), partial(inference, layout, False))
        for name, layout in layouts.items()
    ]
    if with_compile:
        last = torch.channels_last
        found.append(
            Peer("torch.compile", partial(training, last, True), partial(inference, last, True))
        )
    if _has_bfloat16():
        name, rounding = "torch bfloat16", 0.05
        found.append(Peer(name, training_in_bfloat16, inference_in_bfloat16, rounding=rounding))
    return found
