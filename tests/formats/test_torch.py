"""Modules of PyTorch as networks, where it is installed: ``pytest -m torch``."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from minicnn.errors import NetworkError  # noqa: E402
from minicnn.formats.torch import from_torch, to_state_dict  # noqa: E402
from tests.formats.torch_modules import (  # noqa: E402
    CASES,
    FIXTURE,
    images,
    outputs,
    randomized,
    stored,
)

pytestmark = pytest.mark.torch


def test_the_stored_figures_are_those_of_this_pytorch():
    with np.load(FIXTURE) as file:
        now = stored()
        assert sorted(file.files) == sorted(now)
        for name in file.files:
            np.testing.assert_allclose(file[name], now[name], rtol=1e-5, atol=1e-5, err_msg=name)


class Functions(nn.Module):
    """All by functions and methods."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding="same")
        self.two = nn.Conv2d(3, 4, 1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        a, b = F.leaky_relu(self.one(x), 0.2), F.gelu(self.two(x), approximate="tanh")
        x = torch.cat((a, b), dim=1)
        x = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        x = F.dropout(F.max_pool2d(x, 3, 2, ceil_mode=True), 0.5, self.training)
        return F.log_softmax(self.head(x.mean((2, 3))), dim=1)


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.head = nn.Linear(2 * 4 * 3, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = self.relu(x.view(x.size(0), -1))
        return self.head(x)


class Reshaped(Viewed):
    def forward(self, x):
        x = self.conv(x).add(1 * self.conv_of(x)) if hasattr(self, "conv_of") else self.conv(x)
        return self.head(x.reshape(x.shape[0], -1).tanh())


class InPlace(nn.Module):
    """What is changed in place is changed for all that read it afterwards, the shortcut too."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4 * 4 * 3, 3)

    def forward(self, x):
        x = self.norm(self.stem(x))
        x = x + self.body(x)  # of what the activation left
        y = F.elu(x, 0.5, True)
        y = y.add_(x)
        x.tanh_()
        return self.head(torch.flatten(y + x, 1))


ACTIVATIONS = [
    nn.Hardtanh(0.0, 6.0),
    nn.ReLU6(),
    nn.ELU(0.7),
    nn.Hardswish(),
    nn.Mish(),
    nn.Softplus(),
    nn.Hardsigmoid(),
]
ACTIVATIONS += [nn.LeakyReLU(0.3), nn.GELU("tanh"), nn.PReLU(2), nn.Sigmoid(), nn.SiLU()]
MODULES = {
    "functions": (Functions, (6, 5, 3)),
    "viewed": (Viewed, (6, 5, 3)),
    "reshaped": (Reshaped, (6, 5, 3)),
    "in place": (InPlace, (6, 5, 3)),
    "plain norm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.BatchNorm2d(2, affine=False),
            nn.LayerNorm([2, 3, 4], elementwise_affine=False),
            nn.GroupNorm(1, 2, affine=False),
            nn.Identity(),
            nn.AdaptiveMaxPool2d((3, 2)),
            nn.Flatten(),
            nn.Linear(12, 3, bias=False),
        ),
        (5, 6, 1),
    ),
    **{
        str(layer): (
            lambda layer=layer: nn.Sequential(
                nn.Conv2d(1, 2, 3), layer, nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(8, 3)
            ),
            (4, 4, 1),
        )
        for layer in ACTIVATIONS
    },
    **CASES,
}


def exported(module, shape, count=2, **options):
    height, width, channels = shape
    return torch.export.export(module, (torch.zeros(count, channels, height, width),), **options)


WAYS = {
    "fx": lambda module, shape: from_torch(module, shape),
    "a graph of fx": lambda module, shape: from_torch(torch.fx.symbolic_trace(module), shape),
    "export": lambda module, shape: from_torch(exported(module, shape)),
    "export of any batch": lambda module, shape: from_torch(
        exported(module, shape, dynamic_shapes=({0: torch.export.Dim("n", min=1, max=99)},))
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_becomes_a_network_that_gives_the_same(name, way):
    make, shape = MODULES[name]
    module, x = randomized(make()), images(shape)
    model = WAYS[way](module, shape)
    expected = outputs(module, x)
    if name == "functions":  # logits are the logarithm of probabilities but for a number
        np.testing.assert_allclose(model.predict_proba(x), np.exp(expected), rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_allclose(model.logits(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["fx", "export"])
@pytest.mark.parametrize("name", [*CASES, "functions"])
def test_the_weights_go_back_into_the_module(name, way):
    make, shape = MODULES[name]
    module, x = randomized(make(), seed=1), images(shape)
    model = WAYS[way](module, shape)
    fresh = make().eval()
    state = {
        key: torch.from_numpy(tensor.copy())
        for key, tensor in to_state_dict(model, fresh.state_dict()).items()
    }
    if "body.1.weight" in state:
        state["body.1.weight"] = state["body.1.weight"][:1]
    fresh.load_state_dict(state)
    np.testing.assert_array_equal(outputs(fresh, x), outputs(module, x))


def test_a_program_exported_in_training_is_the_model_in_inference():
    make, shape = CASES["named"]
    module, x = randomized(make()), images(shape)
    expected = outputs(module, x)
    model = from_torch(exported(module.train(), shape))
    np.testing.assert_allclose(model.logits(x), expected, rtol=1e-5, atol=1e-5)
    assert {"stem", "norm", "body_0", "head"} <= set(model.network.layer_names)


def test_a_sigmoid_at_the_end_says_yes_or_no():
    module = randomized(nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Sigmoid()))
    x = images((4, 4, 1))
    model = from_torch(module, (4, 4, 1))
    assert model.task == "multilabel"
    np.testing.assert_allclose(model.predict_proba(x), outputs(module, x), rtol=1e-5)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(torch.flatten(self.conv(self.conv(x)), 1))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(torch.flatten(x + 1, 1))


class Computed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.ones(16, 16)), nn.Linear(16, 2)

    def forward(self, x):
        x = torch.flatten(x, 1)
        return self.head(F.linear(x, 2 * self.weight))


class Weighed(Computed):
    def forward(self, x):
        x = torch.flatten(x, 1)
        return self.head(torch.add(x, x, alpha=2))


def chain(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))


REFUSED = {
    "transposed": (lambda: chain(nn.ConvTranspose2d(1, 1, 3)), r"0 \(ConvTranspose2d\): no layer"),
    "reflected": (
        lambda: chain(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")),
        r"0 \(Conv2d\): padding_mode is 'reflect'; 'zeros' would fit",
    ),
    "twice": (Twice, r"conv \(Conv2d\): is used twice"),
    "branching": (Branching, "Branching cannot be traced by torch.fx"),
    "constant": (Constant, r"add \(add\): with a number; only with another value"),
    "no row": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3)), "must give one row of logits"),
    "image row": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()),
        "must give one row of logits",
    ),
    "divisor": (
        lambda: chain(nn.AdaptiveAvgPool2d(3)),
        r"0 \(AdaptiveAvgPool2d\): from .* divisor",
    ),
    "batch": (
        lambda: chain(nn.BatchNorm2d(1, track_running_stats=False)),
        r"0 \(BatchNorm2d\): track_running_stats is False",
    ),
    "softmax": (lambda: chain(nn.Softmax(1)), r"0 \(Softmax\): no layer computes it"),
    "over images": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Softmax(0)),
        "along another axis than the classes",
    ),
    "softplus": (lambda: chain(nn.Softplus(1, 5)), r"0 \(Softplus\): threshold is 5; 20 would fit"),
    "alpha": (Weighed, r"add \(add\): with a number"),
    "tensor": (Computed, "a tensor by itself; inside of a module, or exported, it would fit"),
    "no module": (lambda: "resnet18", "what torch.export.export gives, not str"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_one_line_that_names_the_module(name):
    make, words = REFUSED[name]
    module = make()
    with pytest.raises(NetworkError, match=words) as caught:
        from_torch(module, (4, 4, 1))
    assert "\n" not in str(caught.value)


EXPORTED = {
    "transposed": (lambda: chain(nn.ConvTranspose2d(1, 1, 3)), r"\(conv_transpose2d.*: no layer"),
    "twice": (Twice, r"conv2d_1 \(conv2d.default\): is used twice"),
    "constant": (Constant, r"add \(add.Tensor\): with a number; only with another value"),
    "alpha": (Weighed, r"add \(add.Tensor\): with a number"),
    "computed": (Computed, r"mul \(mul.Tensor\): with a number"),
    "selu": (lambda: chain(nn.SELU()), r"\(selu.default\): no layer computes it"),
    "celu": (lambda: chain(nn.CELU(0.7)), r"celu.*: no layer computes it"),
    "clamped": (
        lambda: chain(nn.Hardtanh()),
        r"hardtanh.*: min_val is -1.0; 0 would fit",
    ),
    "batch": (
        lambda: chain(nn.BatchNorm2d(1, track_running_stats=False)),
        r"\(batch_norm.default\): track_running_stats is False",
    ),
    "no row": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3)), "must give one row of logits"),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_what_cannot_be_taken_of_a_program_names_the_operator(name):
    make, words = EXPORTED[name]
    module = make().eval()
    module(torch.zeros(1, 1, 4, 4))
    with pytest.raises(NetworkError, match=words) as caught:
        from_torch(exported(module, (4, 4, 1)))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own
def test_a_program_of_decomposed_operators_is_refused_and_a_shape_that_is_not_said_asked_for():
    module = chain(nn.Conv2d(1, 2, 3)).eval()
    module(torch.zeros(1, 1, 4, 4))
    with pytest.raises(NetworkError, match=r"\(convolution.default\): no layer computes it"):
        from_torch(exported(module, (4, 4, 1)).run_decompositions())
    with pytest.raises(NetworkError, match=r"needs input_shape, \(height, width, channels\)"):
        from_torch(module)
