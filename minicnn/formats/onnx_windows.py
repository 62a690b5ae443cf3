"""The layers with windows that operators of ONNX become: convolutions and pooling."""

from collections.abc import Callable, Sequence
from typing import Any

from minicnn.errors import NetworkError, SettingError
from minicnn.formats.onnx_network import IMAGE_AXES, Reader, Value
from minicnn.formats.onnx_read import Operator
from minicnn.network import layers as of
from minicnn.network.layer import Layer


def _padding(node: Operator, x: Value, layer: Any) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) that the node says."""
    how = node.take("auto_pad", "NOTSET")
    pads = node.ints("pads", (0, 0, 0, 0), 4)
    if how in ("SAME_UPPER", "SAME_LOWER"):
        top, bottom, left, right = layer(padding="same").resolved_padding(x.shape)
        return (top, left, bottom, right) if how == "SAME_UPPER" else (bottom, right, top, left)
    if how not in ("NOTSET", "VALID"):
        raise NetworkError(f"auto_pad is {how!r}")
    return (0, 0, 0, 0) if how == "VALID" else (pads[0], pads[1], pads[2], pads[3])


def _window(node: Operator, kernel: Sequence[int] = ()) -> dict[str, Any]:
    """What the node says of its windows; ``kernel`` where it does not say their size."""
    return {
        "kernel_size": tuple(node.ints("kernel_shape", kernel, 2)),
        "stride": tuple(node.ints("strides", (1, 1), 2)),
        "dilation": tuple(node.ints("dilations", (1, 1), 2)),
    }


def convolution(reader: Reader, node: Operator) -> Value:
    """The convolution that the node is."""
    x, weight = reader.image(node), reader.numbers(node, 1, 4)
    said = _window(node, weight.shape[2:])
    if said["kernel_size"] != weight.shape[2:]:
        raise NetworkError(
            f"kernel_shape is {list(said['kernel_size'])}, and the weights are {weight.shape}"
        )
    said["groups"] = node.take("group", 1)
    tensors = {"weight": weight.transpose(2, 3, 1, 0)}
    if node.has_input(2):
        tensors["bias"] = reader.numbers(node, 2, 1)

    def layer(padding: Any) -> of.Conv2d:
        bias = "bias" in tensors
        return of.Conv2d(weight.shape[0], padding=padding, bias=bias, **said)

    top, left, bottom, right = _padding(node, x, layer)
    sides = (top, bottom, left, right)
    if (top, left) == (bottom, right):
        made = layer((top, left))
    else:
        made = layer("same")
        if made.resolved_padding(x.shape) != sides:
            made = layer(sides)
    for kind, shape in made.parameter_shapes(x.shape).items():
        if tensors[kind].shape != shape:
            raise NetworkError(f"its {kind} has the shape {tensors[kind].shape}, not {shape}")
    return reader.add(made, x, node=node, **tensors)


def pool(reader: Reader, node: Operator) -> Value:
    """The pooling whose windows, of those that the layers have, are the node's."""
    x = reader.image(node)
    said, ceil = _window(node), bool(node.take("ceil_mode", 0))
    counted, average = bool(node.take("count_include_pad", 0)), node.type == "AveragePool"
    node.take("storage_order")  # of the indices, which nobody reads
    if average and said.pop("dilation") != (1, 1):
        raise NetworkError("dilations are not 1; only MaxPool has them here")

    def layer(padding: Any, ceil_mode: bool = False) -> Any:
        if average:
            counts = counted or (pads == (0, 0, 0, 0) and not ceil_mode)
            return of.AvgPool2d(
                padding=padding, ceil_mode=ceil_mode, count_include_pad=counts, **said
            )
        return of.MaxPool2d(padding=padding, ceil_mode=ceil_mode, **said)

    pads: tuple[int, ...] = ()
    pads = _padding(node, x, layer)
    expected = [_outputs(side, pads, layer(0), x.shape[side], ceil) for side in range(2)]
    even = pads[:2] == pads[2:]
    for padding, ceil_mode in ((pads[:2], False), (pads[:2], True), ("same", False)):
        if average and counted and not (even if ceil else not ceil_mode):
            continue  # windows have other divisors
        try:
            made = layer(padding, ceil_mode)
            shape = made.output_shape(x.shape)
        except (NetworkError, SettingError):
            continue
        top, _, left, _ = made.resolved_padding(x.shape)
        if (top, left) == pads[:2] and list(shape[:2]) == expected:
            return reader.add(made, x, node=node)
    raise NetworkError(
        f"pads {list(pads)} of a kernel {list(said['kernel_size'])}: as much before as after, at most "
        "half of the kernel, or what SAME_UPPER gives would fit"
    )


def _outputs(side: int, pads: Sequence[int], layer: Any, size: int, ceil: bool) -> int:
    """Outputs along one side; with ``ceil`` one that begins in the padding after the image does not
    count."""
    stride, room = layer.stride[side], size + pads[side] + pads[side + 2] - layer.extent[side]
    outputs: int = (-(-room // stride) if ceil else room // stride) + 1
    return outputs - (ceil and (outputs - 1) * stride >= size + pads[side])


def global_pool(kind: Callable[..., Layer]) -> Callable[[Reader, Operator], Value]:
    """What makes the pooling over a whole image of a node."""

    def take(reader: Reader, node: Operator) -> Value:
        x = reader.image(node)
        return reader.pool_all(kind(x.shape[:2]), x, node)

    return take


def reduce_mean(reader: Reader, node: Operator) -> Value:
    """The mean over height and width as a pooling."""
    x = reader.value(node)
    axes, keep = reader.axes_of(node, 1, x), node.take("keepdims", 1)
    node.take("noop_with_empty_axes")
    if x.axes not in IMAGE_AXES or "".join(x.axes[axis - 1] for axis in axes if axis) != "HW":
        raise NetworkError("over other axes than height and width, which alone would fit")
    if not keep:
        return reader.add(of.GlobalAvgPool2d(), x, node=node)
    return reader.pool_all(of.AvgPool2d((x.shape[0], x.shape[1])), x, node)
