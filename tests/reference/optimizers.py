"""The optimizers as their equations stand in the papers, in NumPy float64, for whole arrays.

Each takes the parameters, the gradient, the number of the step (from 1), a dict in which it keeps
what it needs (empty at the start), and its hyperparameters; it returns the new parameters.
"""

import numpy as np


def gd(w, g, t, memory, learning_rate):
    return w - learning_rate * g


def sgd(w, g, t, memory, learning_rate, weight_decay):
    return w - learning_rate * (g + weight_decay * w)


def momentum(w, g, t, memory, learning_rate, momentum, dampening, weight_decay):
    g = g + weight_decay * w
    memory["b"] = g if t == 1 else momentum * memory["b"] + (1 - dampening) * g
    return w - learning_rate * memory["b"]


def nesterov(w, g, t, memory, learning_rate, momentum, weight_decay):
    g = g + weight_decay * w
    memory["b"] = g if t == 1 else momentum * memory["b"] + g
    return w - learning_rate * (g + momentum * memory["b"])


def rmsprop(w, g, t, memory, learning_rate, alpha, epsilon, weight_decay):
    g = g + weight_decay * w
    memory["v"] = alpha * memory.get("v", 0.0) + (1 - alpha) * g**2
    return w - learning_rate * g / (np.sqrt(memory["v"]) + epsilon)


def rmsprop_momentum(
    w, g, t, memory, learning_rate, alpha, momentum, centered, epsilon, weight_decay
):
    g = g + weight_decay * w
    memory["v"] = alpha * memory.get("v", 0.0) + (1 - alpha) * g**2
    memory["m"] = alpha * memory.get("m", 0.0) + (1 - alpha) * g
    variance = memory["v"] - centered * memory["m"] ** 2
    memory["b"] = momentum * memory.get("b", 0.0) + g / (np.sqrt(variance) + epsilon)
    return w - learning_rate * memory["b"]


def adagrad(w, g, t, memory, learning_rate, lr_decay, epsilon, weight_decay):
    g = g + weight_decay * w
    memory["v"] = memory.get("v", 0.0) + g**2
    return w - learning_rate / (1 + (t - 1) * lr_decay) * g / (np.sqrt(memory["v"]) + epsilon)


def adadelta(w, g, t, memory, learning_rate, rho, epsilon, weight_decay):
    g = g + weight_decay * w
    memory["v"] = rho * memory.get("v", 0.0) + (1 - rho) * g**2
    delta = np.sqrt(memory.get("u", 0.0) + epsilon) / np.sqrt(memory["v"] + epsilon) * g
    memory["u"] = rho * memory.get("u", 0.0) + (1 - rho) * delta**2
    return w - learning_rate * delta


def _moments(g, memory, beta1, beta2):
    memory["m"] = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
    memory["v"] = beta2 * memory.get("v", 0.0) + (1 - beta2) * g**2
    return memory["m"], memory["v"]


def adam(w, g, t, memory, learning_rate, beta1, beta2, epsilon, weight_decay):
    m, v = _moments(g + weight_decay * w, memory, beta1, beta2)
    return w - learning_rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)


def amsgrad(w, g, t, memory, learning_rate, beta1, beta2, epsilon, weight_decay):
    m, v = _moments(g + weight_decay * w, memory, beta1, beta2)
    memory["u"] = np.maximum(memory.get("u", 0.0), v)
    root = np.sqrt(memory["u"] / (1 - beta2**t))
    return w - learning_rate * (m / (1 - beta1**t)) / (root + epsilon)


def radam(w, g, t, memory, learning_rate, beta1, beta2, epsilon, weight_decay):
    m, v = _moments(g + weight_decay * w, memory, beta1, beta2)
    mean, longest = m / (1 - beta1**t), 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5:
        return w - learning_rate * mean
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return w - learning_rate * np.sqrt(r) * mean / ((np.sqrt(v) + epsilon) / np.sqrt(1 - beta2**t))


def adamax(w, g, t, memory, learning_rate, beta1, beta2, epsilon, weight_decay):
    g = g + weight_decay * w
    memory["m"] = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
    memory["u"] = np.maximum(beta2 * memory.get("u", 0.0), np.abs(g) + epsilon)
    return w - learning_rate / (1 - beta1**t) * memory["m"] / memory["u"]


def adamw(w, g, t, memory, learning_rate, beta1, beta2, epsilon, weight_decay):
    m, v = _moments(g, memory, beta1, beta2)
    w = (1 - learning_rate * weight_decay) * w
    return w - learning_rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)


def adamw_amsgrad(w, g, t, memory, learning_rate, beta1, beta2, epsilon, weight_decay):
    decayed = (1 - learning_rate * weight_decay) * w
    return amsgrad(decayed, g, t, memory, learning_rate, beta1, beta2, epsilon, 0.0)


def nadam(w, g, t, memory, learning_rate, beta1, beta2, epsilon, momentum_decay, weight_decay):
    g = g + weight_decay * w
    m, v = _moments(g, memory, beta1, beta2)
    mu = beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)
    next_mu = beta1 * (1 - 0.96 ** ((t + 1) * momentum_decay) / 2)
    memory["product"] = memory.get("product", 1.0) * mu
    ahead = next_mu * m / (1 - memory["product"] * next_mu) + (1 - mu) * g / (1 - memory["product"])
    return w - learning_rate * ahead / (np.sqrt(v / (1 - beta2**t)) + epsilon)


def lion(w, g, t, memory, learning_rate, beta1, beta2, weight_decay):
    m = memory.get("m", np.zeros_like(w))
    memory["m"] = beta2 * m + (1 - beta2) * g
    return w - learning_rate * (np.sign(beta1 * m + (1 - beta1) * g) + weight_decay * w)
