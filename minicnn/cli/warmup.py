"""The verb ``warmup``."""

import argparse
import time

from minicnn.cli.common import (
    add_config,
    add_json,
    add_plugins,
    begin,
    print_json,
    use_plugins,
    warn_of_plugins,
)
from minicnn.cli.settings import add_settings, load_data, new_settings
from minicnn.errors import MinicnnError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: those of a training run, for each names what is compiled."""
    add_settings(parser)
    add_config(parser)
    add_plugins(parser)
    add_json(parser, "the folder and the seconds")


def run(arguments: argparse.Namespace) -> int:
    """Compile what the network needs in training, in inference, and in compiled code of the
    user's."""
    settings = new_settings(arguments)
    use_plugins(arguments)
    dataset = load_data(settings)

    import numpy as np

    from minicnn import forward
    from minicnn.inference import Model
    from minicnn.kernels.cpu.tile import product_address
    from minicnn.training.trainer import Trainer

    start, trainer = time.perf_counter(), Trainer(begin(settings, dataset), settings)
    network = trainer.network
    warn_of_plugins()
    trainer.dry_run(dataset)
    params = np.zeros(network.flat_size, np.float32)
    model = Model(network, params, dataset.classes)
    for images in (1, 2):  # one alone is computed by other functions
        model.logits(np.zeros((images, *network.input_shape), np.uint8))
    plan, params, work = model.njit_arguments()
    logits = np.empty((1, network.outputs), np.float32)
    forward(plan, params, work, np.zeros((1, *network.input_shape), np.float32), logits)
    folder, seconds = product_address.stats.cache_path, time.perf_counter() - start
    if folder is None:
        raise MinicnnError("no cache folder can be written: NUMBA_CACHE_DIR names one")
    if arguments.json:
        print_json({"network": network.name, "folder": folder, "seconds": seconds})
    else:
        print(f"{network.name}: compiled or found in {seconds:.1f} s; the cache is {folder}")
    return 0
