"""The coordinate check: do a few updates change the activations as much in a wide model as in a narrow one?

Yang et al. 2022 (Tensor Programs V, appendix D.1). A parametrisation whose learning rates carry over from width to
width changes attention's and the feed-forward network's outputs, the residual stream and the logits by amounts that do
not depend on the width: in log-log a line of slope 0. Where a slope is positive, wide models are moved too far by the
learning rate that suits a narrow one.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import Config
from llm.model import Transformer
from llm.model.attention import Attention
from llm.model.feed_forward import FeedForward
from llm.training.train_state import create_state
from llm.training.train_step import hyperparameters, make_train_step

NAMES = {
    'attention': 'attention output',
    'feed_forward': 'feed-forward output',
    'residual': 'residual stream',
    'logits': 'logits',
}
# To compile takes seconds, to run milliseconds.
COMPILER_OPTIONS = {'cpu': {'xla_backend_optimization_level': 0}}


@dataclass(frozen=True)
class Coordinates:
    """What was measured.

    Attributes:
        widths: of the models.
        changes: by the keys of `NAMES`, (widths, seeds, steps): root mean square, over layers, tokens and features, of
            an activation's difference from its value before the first update.
    """

    widths: tuple[int, ...]
    changes: dict[str, Float[np.ndarray, 'widths seeds steps']]

    def mean(self, name: str, step: int = -1) -> Float[np.ndarray, ' widths']:
        """The change after a step, its geometric mean over the seeds."""
        return np.exp(np.log(self.changes[name][:, :, step]).mean(axis=1))

    def slope(self, name: str, step: int = -1) -> float:
        """Of log change against log width, by least squares: 0 is flat, 1 is in proportion to the width."""
        return float(np.polyfit(np.log(self.widths), np.log(self.mean(name, step)), 1)[0])


def coordinate_check(
    config: Config, widths: Sequence[int], *, steps: int = 4, seeds: int = 4, rows: int = 4
) -> Coordinates:
    """Trains models of each width on one batch of random tokens and measures how far their activations move.

    Args:
        config: of all of them but for the width. Its feed-forward width and number of heads have to follow from the
            width, and there must be no dropout; a small vocabulary and few layers are enough.
        widths: at least two, each a multiple of the number of heads.
        steps: updates.
        seeds: models of each width, whose starts and batches differ.
        rows: of the batch, each of `data.sequence_length` tokens.
    """
    changes = []
    for width in widths:
        own = dataclasses.replace(config, model=dataclasses.replace(config.model, width=width))
        measure = lambda numbers, own=own: jax.lax.map(lambda n: _changes(own, steps, rows, n), numbers)
        compiled = jax.jit(measure, compiler_options=COMPILER_OPTIONS.get(jax.default_backend()))
        changes.append(jax.device_get(compiled(jnp.arange(seeds))))
    return Coordinates(tuple(widths), {name: np.stack([one[name] for one in changes]) for name in NAMES})


def activations(model: Transformer, params: dict, tokens: Int[Array, 'batch length']) -> dict[str, Float[Array, '...']]:
    """What a model computes on the way, by the keys of `NAMES`: those of blocks are (layers, batch, length, width)."""
    output, captured = model.apply(
        {'params': params},
        tokens,
        capture_intermediates=lambda module, method: isinstance(module, Attention | FeedForward),
        mutable=['intermediates'],
    )
    blocks = captured['intermediates']['blocks']
    return {
        'attention': blocks['attention']['__call__'][0][0],  # beside it is what goes into a cache
        'feed_forward': blocks['feed_forward']['__call__'][0],
        'residual': blocks['residual_after'][0],
        'logits': output.logits,
    }


def _changes(config, steps, rows, number):
    """One model's changes, (steps,) by name."""
    model, step, hyper = Transformer(config.model), make_train_step(config), hyperparameters(config)
    shape = (rows, config.data.sequence_length)
    ids = jax.random.randint(jax.random.key(number), (rows, shape[1] + 1), 0, config.model.vocab_size, jnp.int32)
    batch = {
        'inputs': ids[:, :-1],
        'targets': ids[:, 1:],
        'loss_weights': jnp.ones(shape),
        'segment_ids': jnp.ones(shape, jnp.int32),
        'positions': jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32)[None, :], shape),
    }

    def update(state, _):
        seen = activations(model, state.params, batch['inputs'])
        return step(state, batch, hyper)[0], seen

    seen = jax.lax.scan(update, create_state(config, number), length=steps + 1)[1]
    change = lambda x: jnp.sqrt(jnp.mean(jnp.square(x[1:] - x[:1]), axis=tuple(range(1, x.ndim))))
    return jax.tree.map(change, seen)


def plot(title: str, coordinates: Coordinates, step: int = -1):
    """The changes after a step against the width, a line for each activation with its slope, as a `<figure>`."""
    from llm.analysis.plots import Series, line_plot

    series = [
        Series(
            f'{label}, slope {coordinates.slope(name, step):+.2f}'.replace('-', '−'),
            coordinates.widths,
            coordinates.mean(name, step),
            colour=colour,
            marked=True,
        )
        for colour, (name, label) in enumerate(NAMES.items())
    ]
    axes = {'log_x': True, 'log_y': True, 'x_ticks': coordinates.widths}
    return line_plot(title, 'width', 'RMS change of the activation', series, **axes)
