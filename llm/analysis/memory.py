"""What a run will hold in memory, predicted from its config without allocating any of it."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm.config import Config, ModelConfig
from llm.model import Transformer
from llm.training.train_state import abstract_state


class Part(NamedTuple):
    """One tensor of the parameter tree; tensors of the blocks are stacked on a leading layer axis."""

    part: str
    shape: tuple[int, ...]
    count: int


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device that holds the whole model and one micro-batch. See `memory_estimate`."""

    parameters: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    logits: int

    def parts(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @property
    def total(self) -> int:
        return sum(self.parts().values())


def parameter_shapes(model: ModelConfig) -> Any:
    """The parameter tree with shapes and dtypes in place of arrays."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(Transformer(model).init, jax.random.key(0), tokens)['params']


_JOURNEY = ('embedding', 'positions', 'embedding_norm', 'blocks', 'final_norm', 'lm_head')


def parameter_table(model: ModelConfig) -> list[Part]:
    """Every tensor of the model, in the order a token meets them: (part, shape, count)."""
    leaves = jax.tree_util.tree_leaves_with_path(parameter_shapes(model))
    leaves.sort(key=lambda leaf: _JOURNEY.index(leaf[0][0].key))
    return [Part('/'.join(key.key for key in path), leaf.shape, leaf.size) for path, leaf in leaves]


def parameter_count(model: ModelConfig) -> int:
    """How many numbers are trained; a tied head counts once."""
    return sum(row.count for row in parameter_table(model))


def memory_estimate(config: Config) -> MemoryEstimate:
    """Predicts the bytes of one training step.

    Parameters, gradients, optimizer state and EMA are exact. A batch cut into micro-batches keeps a second gradient,
    the running sum. Activations are what the backward pass reads of the forward pass, traced from the model itself, so
    every switch (remat, windows, dtypes) is seen; with remat, the intermediates of the one block being recomputed come
    on top. Logits are those that exist at once, with their gradient. What the compiler adds (temporaries) or saves
    (fusion) is not known here, nor are dropout's masks.
    """
    state = abstract_state(config)
    parameters = _bytes(state.params)
    rows = config.training.batch_size // config.training.accumulation
    length = config.data.sequence_length
    positions = rows * min(length, config.objective.vocabulary_chunk or length)
    return MemoryEstimate(
        parameters=parameters,
        gradients=parameters * (2 if config.training.accumulation > 1 else 1),
        optimizer=_bytes(state.opt_state),
        ema=_bytes(state.ema),
        activations=activation_bytes(config.model, rows, config.data.sequence_length),
        logits=2 * positions * config.model.vocab_size * jnp.dtype(config.model.logit_dtype).itemsize,
    )


def activation_bytes(model: ModelConfig, rows: int, length: int) -> int:
    """Bytes kept from the forward to the backward pass for `rows` sequences, up to the final norm."""
    kept = _residual_bytes(model, rows, length)
    if model.remat != 'none':
        one_block = dataclasses.replace(model, num_layers=1, remat='none')
        kept += _residual_bytes(one_block, rows, length)
    return kept


def _residual_bytes(model: ModelConfig, rows: int, length: int) -> int:
    transformer = Transformer(model)
    tokens = jnp.zeros((rows, length), jnp.int32)
    segment_ids = jnp.ones((rows, length), jnp.int32)

    def backward(params):
        def forward(params):
            return transformer.apply({'params': params}, tokens, segment_ids, with_logits=False).hidden

        return jax.tree.leaves(jax.vjp(forward, params)[1])  # a function is a pytree of what it closes over

    jaxpr = jax.make_jaxpr(backward)(parameter_shapes(model)).jaxpr
    parameters = set(map(id, jaxpr.invars))  # read by the backward pass, but counted as parameters already
    residuals = {id(v): v.aval for v in jaxpr.outvars if id(v) not in parameters}
    return _bytes(list(residuals.values()))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
