"""The verb ``gradcheck``."""

import argparse
from typing import TYPE_CHECKING, Any

from minicnn.cli.common import (
    add_json,
    add_number,
    add_plugins,
    add_trained,
    build_network,
    check_trained,
    print_json,
    use_plugins,
)
from minicnn.cli.evaluate import model_and_data
from minicnn.cli.settings import DATA_OPTIONS, add_data_options, add_option, given, load_data
from minicnn.errors import DataError, MinicnnError, UsageError
from minicnn.kinds import COUNT
from minicnn.training.settings import Settings

if TYPE_CHECKING:
    from minicnn.insight.batch_loss import BatchLoss
    from minicnn.insight.chain_rule import Trace
    from minicnn.insight.gradient_check import TensorCheck

# deviation; were they all 0, as at the start of a training, black pixels would lie on the kinks of
# ReLU
_BIASES = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_trained(parser)
    text = f"network with new weights, biases included (default: {Settings.model})"
    add_option(parser, "model", help=text)
    text = f"data set of the batch (default: the model's, else {Settings.data})"
    add_option(parser, "data", help=text)
    add_data_options(parser)
    add_option(parser, "batch_size", default=8, help="images (default: 8)")
    add_option(parser, "loss", help=f"loss (default: the model's, else {Settings.loss})")
    add_option(parser, "loss_kwargs", default=[])
    add_option(parser, "class_weights")
    add_number(parser, "--samples", COUNT, 100, "weights per tensor")
    text = "seed of new weights and of the images and weights that are drawn (default: 0)"
    add_option(parser, "seed", default=0, help=text)
    parser.add_argument(
        "--trace",
        metavar="WEIGHT",
        help="walk the derivative with respect to one weight, such as "
        "conv1.weight[0,0,0,3], back through the layers",
    )
    text = "cuda: compare its float32 gradients with the CPU's instead (default: cpu)"
    add_option(parser, "device", default="cpu", help=text)
    add_plugins(parser)
    add_json(parser, "the figures")


def run(arguments: argparse.Namespace) -> int:
    """Check or trace, print the figures, and raise an error for a gradient that is wrong."""
    batch_loss = _batch_loss(arguments)

    from minicnn.insight.gradient_check import (
        DEVICE_TOLERANCE,
        STEPS,
        TOLERANCE,
        FiniteDifferences,
        device_gradcheck,
        gradcheck,
    )
    from minicnn.report.console import progress_bar

    batch: dict[str, Any] = {
        "network": batch_loss.network.name,
        "loss": batch_loss.loss.rule.name,
        "images": len(batch_loss.labels),
        "cost": FiniteDifferences(batch_loss).value,
    }
    title = "{network}, {images} images, {loss} {cost:.4f}, in ".format(**batch)
    if arguments.trace is not None:
        from minicnn.insight.chain_rule import trace

        traced = trace(batch_loss, arguments.trace)
        if arguments.json:
            print_json({**batch, "trace": traced})
        else:
            _show_trace(f"{title}float64", traced)
        return 0
    on_device = arguments.device != "cpu"
    if on_device:
        checks = device_gradcheck(batch_loss, arguments.device)
        how: dict[str, Any] = {"device": arguments.device, "tolerance": DEVICE_TOLERANCE}
    else:
        with progress_bar("weights") as progress:
            checks = gradcheck(batch_loss, arguments.samples, arguments.seed, progress)
        how = {"steps": STEPS, "tolerance": TOLERANCE, "seed": arguments.seed}
    failed = [check for check in checks if not check.passed]
    if arguments.json:
        print_json({**batch, **how, "passed": not failed, "tensors": checks})
    else:
        compared = (arguments.device, "cpu") if on_device else ("explicit", "numeric")
        _show_checks(title + ("float32" if on_device else "float64"), checks, compared)
    if wrong := [check.tensor for check in failed if check.checked]:
        other = "the CPU's" if on_device else "the numeric one"
        raise MinicnnError(
            f"the explicit gradient differs from {other} by more than {how['tolerance']:g} in "
            f"{', '.join(wrong)}"
        )
    if failed:
        raise MinicnnError(
            f"every step in {', '.join(check.tensor for check in failed)} crossed a kink, so nothing was "
            "checked there: take fewer images, or another seed"
        )
    return 0


def _batch_loss(arguments: argparse.Namespace) -> "BatchLoss":
    """The loss on the batch as a function of the weights that the options name."""
    import numpy as np

    from minicnn.evaluation.loss import Loss, class_weights
    from minicnn.insight.batch_loss import BatchLoss

    rng = np.random.default_rng(arguments.seed)
    made: dict[str, Any] = {"name": Settings.loss, "hyperparameters": {}, "class_weights": None}
    if arguments.trained is not None:
        if arguments.model is not None:
            raise UsageError("MODEL and --model exclude each other: a trained model has a network")
        check_trained(arguments.trained)
        trained = {**vars(arguments), "model": arguments.trained, "threads": 1}
        model, dataset, split = model_and_data(argparse.Namespace(**trained))
        network, params, made = model.network, model.params, model.training.get("loss", made)
    else:
        use_plugins(arguments)
        dataset = load_data(Settings(**given(arguments, ("data", "seed", *DATA_OPTIONS))))
        network = build_network(
            arguments.model or Settings.model, dataset.image_shape, len(dataset.classes)
        )
        split = dataset.train
        params = network.initialize(rng)
        tensors = network.unflatten(params)
        for spec in network.parameters:
            if spec.kind in ("bias", "shift"):
                tensors[spec.name][:] = _BIASES * rng.normal(size=spec.shape)
    weights = arguments.class_weights
    if arguments.loss or arguments.loss_kwargs or weights:
        made = {
            "name": arguments.loss or made["name"],
            "class_weights": class_weights(weights, split.labels, dataset.classes),
            "hyperparameters": dict(arguments.loss_kwargs),
        }
    if arguments.batch_size > len(split):
        raise DataError(
            f"{dataset.name} has {len(split)} images, fewer than --batch-size {arguments.batch_size}"
        )
    chosen = rng.permutation(len(split))[: arguments.batch_size]
    loss = Loss(
        made["name"], network.outputs, made["class_weights"], np.float64, **made["hyperparameters"]
    )
    images, labels = split.images[chosen] * dataset.scale, split.labels[chosen]
    return BatchLoss(network, params, images, labels, loss)


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.2e}"


def _show_checks(title: str, checks: "list[TensorCheck]", compared: tuple[str, str]) -> None:
    from minicnn.report.console import table

    rows = [
        [
            check.tensor,
            check.checked,
            check.kinks,
            _short(check.error),
            check.at and check.at.removeprefix(check.tensor),
            _short(check.explicit),
            _short(check.numeric),
            _verdict(check),
        ]
        for check in checks
    ]
    table(title, ["tensor", "checked", "kinks", "error", "at", *compared, ""], rows)


def _verdict(check: "TensorCheck") -> str:
    if not check.passed:
        return "WRONG" if check.checked else "?"
    return "zero" if check.explicit == check.numeric == 0 else "ok"


def _show_trace(title: str, traced: "Trace") -> None:
    from minicnn.report.console import make_console, say, table

    console = make_console()
    rows = [
        [
            f"∂{factor.of}/∂{factor.by}{' *' * factor.branches}",
            *(
                value if value is None else f"{value:.6g}"
                for value in (factor.value, factor.product, factor.explicit)
            ),
        ]
        for factor in traced.factors
    ]
    table(
        title,
        ["factor", "value", "product so far", "backward pass"],
        rows,
        console,
    )
    say(console)
    if any(factor.branches for factor in traced.factors):
        say(console, "* several paths lead from one to the other: the factor is the sum over them")
    say(console, f"∂C/∂{traced.weight} at {traced.value:.6g}")
    say(console, f"explicit  {traced.explicit:.10g}")
    if traced.crossed:
        say(
            console,
            f"numeric   {traced.numeric:.10g}, across a kink of ReLU, max pooling or the loss: no derivative",
        )
    else:
        say(console, f"numeric   {traced.numeric:.10g}, relative error {traced.error:.1e}")
