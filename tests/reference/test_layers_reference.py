"""The oracle itself: forward passes by hand or by the scalar formula, backward passes by numeric
derivatives."""

import numpy as np
import pytest

from . import layers

CONVOLUTIONS = [  # H, W, C, R, S, K, stride, padding, dilation
    (5, 4, 2, 3, 2, 3, (1, 1), (0, 0, 0, 0), (1, 1)),
    (7, 6, 1, 3, 3, 2, (2, 1), (1, 1, 1, 1), (1, 1)),
    (6, 9, 2, 2, 3, 1, (1, 3), (0, 1, 2, 0), (2, 1)),
    (8, 5, 1, 3, 1, 2, (3, 2), (2, 0, 0, 1), (2, 3)),
    (1, 1, 3, 1, 1, 4, (1, 1), (0, 0, 0, 0), (1, 1)),
    (3, 2, 2, 5, 4, 2, (1, 1), (2, 2, 1, 2), (1, 1)),
]
POOLS = [  # H, W, C, kernel, stride, padding
    (4, 4, 2, (2, 2), (2, 2), (0, 0, 0, 0)),
    (5, 7, 3, (3, 2), (2, 1), (1, 0, 0, 1)),
    (6, 5, 1, (2, 3), (3, 2), (1, 1, 1, 1)),  # rows and columns that no window reads
    (3, 3, 2, (3, 3), (1, 1), (2, 1, 0, 2)),  # overlapping windows
]
ACTIVATIONS = ["relu", "leakyrelu", "sigmoid", "tanh", "silu", "gelu"]


def assert_backward_is_derivative(forward, backward, *inputs, seed=1):
    """``backward(dy)`` returns, for every one of ``inputs``, the derivative of Σ dy ·
    forward(*inputs)."""
    dy = np.random.default_rng(seed).normal(size=forward(*inputs).shape)
    results = backward(dy)
    assert len(results) == len(inputs)
    for i, result in enumerate(results):

        def loss(changed, i=i):
            return float(np.sum(dy * forward(*inputs[:i], changed, *inputs[i + 1 :])))

        assert result.dtype == np.float64 and np.any(result != 0)
        np.testing.assert_allclose(
            result, layers.numeric_gradient(loss, inputs[i]), rtol=1e-6, atol=1e-8
        )


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_numeric_gradient_of_a_cube_is_three_squares_and_leaves_x_alone():
    x = random(2, 3)
    before = x.copy()
    np.testing.assert_allclose(
        layers.numeric_gradient(lambda a: float(np.sum(a**3)), x), 3 * x**2, rtol=1e-7, atol=1e-9
    )
    np.testing.assert_array_equal(x, before)


def test_numeric_gradient_changes_one_element_at_a_time():
    gradient = layers.numeric_gradient(lambda a: 1e6 * float(a[0] * a[1]), np.array([0.0, 0.0]))
    np.testing.assert_array_equal(gradient, [0.0, 0.0])


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_is_the_scalar_sum_of_the_formula(case):
    H, W, C, R, S, K, stride, padding, dilation = case
    x, w, bias = random(2, H, W, C), random(R, S, C, K, seed=1), random(K, seed=2)
    y = layers.conv2d_forward(x, w, bias, stride, padding, dilation)
    for n, p, q, k in np.ndindex(y.shape):
        total = bias[k]
        for r, s, c in np.ndindex(R, S, C):
            h, v = (
                p * stride[0] + r * dilation[0] - padding[0],
                q * stride[1] + s * dilation[1] - padding[2],
            )
            if 0 <= h < H and 0 <= v < W:
                total += x[n, h, v, c] * w[r, s, c, k]
        assert y[n, p, q, k] == pytest.approx(total, rel=1e-12, abs=1e-12)


def test_conv2d_output_has_as_many_positions_as_the_kernel_fits():
    sizes = [
        layers.conv2d_forward(random(1, H, W, 1), random(R, S, 1, 1), None, *rest).shape[1:3]
        for H, W, _, R, S, _, *rest in CONVOLUTIONS
    ]
    assert sizes == [(3, 3), (4, 6), (5, 3), (2, 3), (1, 1), (3, 2)]


def test_conv2d_is_a_cross_correlation_that_does_not_flip_the_filter():
    x = np.arange(9.0).reshape(1, 3, 3, 1)
    w = np.array([[1.0, 0.0], [0.0, 10.0]]).reshape(2, 2, 1, 1)
    expected = [[0 + 40, 1 + 50], [3 + 70, 4 + 80]]
    np.testing.assert_array_equal(layers.conv2d_forward(x, w)[0, :, :, 0], expected)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_backward_is_the_derivative(case):
    H, W, C, R, S, K, *geometry = case
    x, w, bias = random(2, H, W, C), random(R, S, C, K, seed=1), random(K, seed=2)
    assert_backward_is_derivative(
        lambda x, w, bias: layers.conv2d_forward(x, w, bias, *geometry),
        lambda dy: layers.conv2d_backward(x, dy, w, *geometry),
        x,
        w,
        bias,
    )


@pytest.mark.parametrize("name", ["maxpool2d", "avgpool2d"])
@pytest.mark.parametrize("case", POOLS)
def test_pooling_backward_is_the_derivative(name, case):
    H, W, C, *geometry = case
    x = random(2, H, W, C)
    forward, backward = getattr(layers, f"{name}_forward"), getattr(layers, f"{name}_backward")
    assert_backward_is_derivative(
        lambda x: forward(x, *geometry), lambda dy: (backward(x, dy, *geometry),), x
    )


def test_maxpool_takes_the_largest_and_never_the_border():
    x = -np.arange(1.0, 10).reshape(1, 3, 3, 1)
    y = layers.maxpool2d_forward(x, (2, 2), (2, 2), (1, 0, 1, 0))
    np.testing.assert_array_equal(y[0, :, :, 0], [[-1, -2], [-4, -5]])


def test_maxpool_gives_the_gradient_of_equal_elements_to_the_first_in_row_major_order():
    x = np.zeros((1, 3, 3, 1))
    x[0, 0, 1] = x[0, 1, 0] = x[0, 2, 2] = 7
    dx = layers.maxpool2d_backward(x, np.full((1, 1, 1, 1), 5.0), (3, 3), (3, 3))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 5, 0], [0, 0, 0], [0, 0, 0]])


def test_maxpool_of_equal_elements_beside_a_border_gives_the_gradient_inside():
    dx = layers.maxpool2d_backward(
        np.full((1, 1, 2, 1), -np.inf), np.ones((1, 1, 1, 1)), (2, 3), (1, 1), (1, 0, 1, 0)
    )
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 0]])


def test_maxpool_hands_on_nan_and_gives_it_the_gradient():
    x = np.array([[9.0, np.nan], [np.nan, 3.0]]).reshape(1, 2, 2, 1)
    assert np.isnan(layers.maxpool2d_forward(x, (2, 2), (2, 2))).all()
    dx = layers.maxpool2d_backward(x, np.ones((1, 1, 1, 1)), (2, 2), (2, 2))
    np.testing.assert_array_equal(
        dx[0, :, :, 0], [[0, 0], [1, 0]]
    )  # of several NaN the last, as in PyTorch


def test_avgpool_counts_the_border_in_the_divisor():
    y = layers.avgpool2d_forward(np.full((1, 2, 2, 1), 8.0), (2, 2), (2, 2), (1, 1, 1, 1))
    np.testing.assert_array_equal(y[0, :, :, 0], [[2, 2], [2, 2]])


@pytest.mark.parametrize("shape", [(2, 3, 5, 2), (1, 1, 1, 1), (3, 4, 1, 3)])
def test_globalavgpool_is_the_mean_over_the_image_and_its_backward_the_derivative(shape):
    x = random(*shape)
    np.testing.assert_allclose(layers.globalavgpool2d_forward(x), x.mean(axis=(1, 2)), rtol=1e-12)
    assert_backward_is_derivative(
        layers.globalavgpool2d_forward, lambda dy: (layers.globalavgpool2d_backward(x, dy),), x
    )


def test_flatten_runs_over_channels_fastest_and_comes_back():
    x = random(2, 3, 4, 2)
    y = layers.flatten_forward(x)
    assert y.shape == (2, 24) and y[1, (2 * 4 + 3) * 2 + 1] == x[1, 2, 3, 1]
    np.testing.assert_array_equal(layers.flatten_backward(x, y), x)


@pytest.mark.parametrize(("N", "inputs", "outputs"), [(3, 5, 2), (1, 1, 7), (4, 7, 1)])
def test_dense_is_a_matrix_product_and_its_backward_the_derivative(N, inputs, outputs):
    x, w, bias = random(N, inputs), random(inputs, outputs, seed=1), random(outputs, seed=2)
    y = layers.dense_forward(x, w, bias)
    for n, o in np.ndindex(y.shape):
        assert y[n, o] == pytest.approx(
            bias[o] + sum(x[n, i] * w[i, o] for i in range(inputs)), rel=1e-12, abs=1e-12
        )
    np.testing.assert_allclose(layers.dense_forward(x, w), y - bias, rtol=1e-12, atol=1e-12)
    assert_backward_is_derivative(
        layers.dense_forward, lambda dy: layers.dense_backward(x, dy, w), x, w, bias
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (3, 7), (1, 1)])
def test_activation_backward_is_the_derivative(name, shape):
    x = 2 * np.abs(random(*shape)) * np.where(np.arange(np.prod(shape)).reshape(shape) % 2, -1, 1)
    backward = getattr(layers, f"{name}_backward")
    assert_backward_is_derivative(
        getattr(layers, f"{name}_forward"), lambda dy: (backward(x, dy),), x
    )


@pytest.mark.parametrize(
    ("name", "expected"),  # at x = -2, 0, 1
    [
        ("relu", [0, 0, 1]),
        ("leakyrelu", [-0.02, 0, 1]),
        ("sigmoid", [0.11920292202211755, 0.5, 0.7310585786300049]),
        ("tanh", [-0.9640275800758169, 0, 0.7615941559557649]),
        ("silu", [-0.2384058440442351, 0, 0.7310585786300049]),
        ("gelu", [-0.04550026389635842, 0, 0.8413447460685429]),
    ],
)
def test_activation_has_the_known_values(name, expected):
    np.testing.assert_allclose(
        getattr(layers, f"{name}_forward")(np.array([-2.0, 0.0, 1.0])), expected, rtol=1e-12
    )


def test_relu_has_slope_zero_and_leakyrelu_its_negative_slope_at_zero():
    zero, dy = np.zeros(1), np.ones(1)
    assert layers.relu_backward(zero, dy) == 0
    assert layers.leakyrelu_backward(zero, dy, 0.3) == 0.3
    assert layers.leakyrelu_forward(np.array([-2.0]), 0.3) == -0.6


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_stays_finite_far_out_and_hands_on_nan(name):
    forward, backward = getattr(layers, f"{name}_forward"), getattr(layers, f"{name}_backward")
    far = np.array([-1e4, 1e4])
    assert np.isfinite(forward(far)).all() and np.isfinite(backward(far, np.ones(2))).all()
    assert np.isnan(forward(np.array([np.nan]))).all()


def test_dropout_scales_the_kept_elements_and_its_backward_is_the_derivative():
    x, mask = random(3, 5), np.random.default_rng(3).random((3, 5)) < 0.6
    y = layers.dropout_forward(x, mask, 0.4)
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(y[~mask], 0)
    np.testing.assert_allclose(y[mask], x[mask] / 0.6, rtol=1e-12)
    assert_backward_is_derivative(
        lambda x: layers.dropout_forward(x, mask, 0.4),
        lambda dy: (layers.dropout_backward(x, dy, mask, 0.4),),
        x,
    )


def test_float32_input_is_computed_in_float64():
    x, w = random(1, 3, 3, 1).astype(np.float32), random(2, 2, 1, 1).astype(np.float32)
    results = [
        layers.conv2d_forward(x, w),
        *layers.conv2d_backward(x, layers.conv2d_forward(x, w), w),
    ]
    results += [layers.maxpool2d_forward(x, (2, 2), (1, 1)), layers.flatten_forward(x)]
    results += [getattr(layers, f"{name}_forward")(x) for name in ACTIVATIONS]
    assert {result.dtype for result in results} == {np.dtype(np.float64)}
