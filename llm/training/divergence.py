"""When a run is lost, which batches to leave out, and what to say when nothing helps."""

import math
import statistics
from typing import Any

import jax
import numpy as np

from llm.config import Config, DivergenceConfig, Online
from llm.model import Transformer
from llm.model.patches import image_inputs
from llm.objectives import registry
from llm.objectives.next_token import model_inputs
from llm.tree import is_stacked, named_leaves

SMALLEST_DEVIATION = 1e-3  # of the mean: a loss that has stood still may still wiggle


def divergence(config: DivergenceConfig, loss: float, grad_norm: float, recent: list[float]) -> str | None:
    """Says what is wrong with a step, or None.

    Args:
        config: window and z-score.
        loss: the step's.
        grad_norm: the step's.
        recent: losses of the last `config.window` good steps; fewer than that judge nothing but finiteness.
    """
    if not math.isfinite(loss):
        return f'the loss is {loss}'
    if not math.isfinite(grad_norm):
        return f'the norm of the gradient is {grad_norm}'
    if len(recent) < config.window:
        return None
    mean = statistics.fmean(recent)
    deviation = max(statistics.pstdev(recent), SMALLEST_DEVIATION * abs(mean))
    z = (loss - mean) / deviation
    if z > config.z_score:
        return f'the loss {loss:.4g} is {z:.1f} deviations above the last {config.window} ({mean:.4g})'
    return None


def merge(ranges: list[list[int]], new: tuple[int, int]) -> list[list[int]]:
    """Adds a range [start, end) of batches to a sorted list of them, joining what touches."""
    merged: list[list[int]] = []
    for start, end in sorted([*map(tuple, ranges), new]):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def diagnose(config: Config, params: Any, batch: dict[str, Any]) -> str:
    """Finds the first thing that is not finite: a parameter, a layer's output, the loss, or a gradient.

    Args:
        config: the run's.
        params: the parameters that met the batch.
        batch: the offending batch.
    """
    if name := _first_not_finite(params):
        return f'parameter {name} is not finite'
    if isinstance(config.objective, Online):
        return 'the parameters are finite; look at the rewards, and lower the learning rate'
    model = Transformer(config.model)
    if 'inputs' in batch:
        inputs = model_inputs(config.objective, batch) | image_inputs(model, params, batch)
    else:
        inputs = {'tokens': batch['tokens'].reshape(-1, batch['tokens'].shape[-1])}
    kind = inputs.pop('mask_kind', 'causal')

    @jax.jit  # so that of all that could be captured only the stream is kept
    def read(params, inputs):
        output, captured = model.apply({'params': params}, **inputs, mask_kind=kind, mutable=['intermediates'])
        return output, captured['intermediates']['blocks']['residual_after'][0]

    output, residual = read(params, inputs)
    for layer, value in enumerate(np.asarray(residual)):
        if not np.isfinite(value).all():
            rows = np.unique(np.argwhere(~np.isfinite(value))[:, 0]).tolist()
            return f'the output of layer {layer} is not finite, first in rows {rows[:5]} of the batch'
    if not np.isfinite(np.asarray(output.logits)).all():
        return 'the logits are not finite; every layer is'
    loss = registry.make_loss(config, model, registry.hyperparameters(config))
    (total, weight), gradients = jax.value_and_grad(lambda p: loss(p, batch, None)[:2], has_aux=True)(params)
    if not np.isfinite(total) or not np.isfinite(weight):
        return 'the loss is not finite; the logits are, so look at the loss weights and targets'
    if name := _first_not_finite(gradients):
        return f'the gradient of {name} is not finite; the loss is'
    return 'everything is finite: the loss exploded; lower the learning rate, or lengthen the warm-up'


def _first_not_finite(tree: Any) -> str | None:
    for name, value in named_leaves(tree):
        finite = np.isfinite(np.asarray(value))
        if not finite.all():
            layers = np.argwhere(~finite)[:, 0] if is_stacked(name) else []
            return f'{name} of layer {layers[0]}' if len(layers) else name
    return None
