"""One update of each optimizer for one matrix or vector, in float64 NumPy, from the papers.

Each function takes the parameter, its gradient, the state (a dictionary it changes; empty at the start), the number of
the update counted from 1, and the settings; it returns the new parameter. Weight decay is decoupled (Loshchilov &
Hutter 2019) and per unit of learning rate: the parameter loses learning_rate * weight_decay of itself.
"""

import math

import numpy as np


def adamw(p, g, state, step, *, learning_rate, weight_decay, b1, b2, epsilon=1e-8):
    """Kingma & Ba 2015, algorithm 1, with bias correction; epsilon outside the root."""
    m = state['m'] = b1 * state.get('m', 0.0) + (1 - b1) * g
    v = state['v'] = b2 * state.get('v', 0.0) + (1 - b2) * g**2
    update = (m / (1 - b1**step)) / (np.sqrt(v / (1 - b2**step)) + epsilon)
    return p - learning_rate * (update + weight_decay * p)


def sgd(p, g, state, step, *, learning_rate, weight_decay, momentum):
    """Heavy ball: the velocity adds up gradients, undamped."""
    velocity = state['velocity'] = momentum * state.get('velocity', 0.0) + g
    return p - learning_rate * (velocity + weight_decay * p)


def lion(p, g, state, step, *, learning_rate, weight_decay, b1, b2):
    """Chen et al. 2023, algorithm 2."""
    m = state.get('m', 0.0)
    state['m'] = b2 * m + (1 - b2) * g
    return p - learning_rate * (np.sign(b1 * m + (1 - b1) * g) + weight_decay * p)


def adafactor(p, g, state, step, *, learning_rate, weight_decay, decay_rate):
    """Shazeer & Stern 2018, algorithms 4 and 5: step relative to the parameter's size, update clipped at RMS 1.

    The paper's constants: 1e-30 under the root, 1e-3 for the smallest size, no momentum.
    """
    memory = 1 - step**-decay_rate
    squares = g**2 + 1e-30
    if p.ndim == 2:
        rows = state['rows'] = memory * state.get('rows', 0.0) + (1 - memory) * squares.sum(axis=1)
        columns = state['columns'] = memory * state.get('columns', 0.0) + (1 - memory) * squares.sum(axis=0)
        v = np.outer(rows, columns) / rows.sum()
    else:
        v = state['v'] = memory * state.get('v', 0.0) + (1 - memory) * squares
    update = g / np.sqrt(v)
    update = update / max(1.0, rms(update))
    return p - learning_rate * (max(1e-3, rms(p)) * update + weight_decay * p)


def rms(x):
    return math.sqrt((x**2).mean())


def muon(p, g, state, step, *, learning_rate, weight_decay, momentum):
    """Jordan et al. 2024, for a kernel (in, out): Nesterov momentum, orthogonalised, times sqrt(max(1, out / in)).

    The momentum is not bias-corrected: a common factor would vanish in the orthogonalisation, and the definition has no
    factor that differs between the velocity and the gradient.
    """
    velocity = state['velocity'] = momentum * state.get('velocity', 0.0) + (1 - momentum) * g
    update = newton_schulz(momentum * velocity + (1 - momentum) * g)
    fan_in, fan_out = p.shape
    return p - learning_rate * (math.sqrt(max(1.0, fan_out / fan_in)) * update + weight_decay * p)


def newton_schulz(x):
    """Five steps of the quintic a X + b X X'X + c X (X'X)^2, with Jordan's coefficients, from Frobenius norm 1."""
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(5):
        gram = x.T @ x
        x = 3.4445 * x - 4.7750 * x @ gram + 2.0315 * x @ gram @ gram
    return x
