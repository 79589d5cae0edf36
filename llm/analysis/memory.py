"""What a run will hold in memory, predicted from its config without allocating any of it."""

import dataclasses
from typing import NamedTuple

import jax

from llm.analysis import step_memory
from llm.config import Config, ModelConfig
from llm.training.train_state import parameter_shapes
from llm.tree import named_leaves


class Part(NamedTuple):
    """One tensor of the parameter tree; tensors of the blocks are stacked on a leading layer axis."""

    part: str
    shape: tuple[int, ...]
    count: int


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step on one device. See `memory_estimate`."""

    parameters: int
    optimizer: int
    ema: int
    batch: int
    gradients: int
    activations: int
    logits: int
    workspace: int

    def parts(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @property
    def total(self) -> int:
        return sum(self.parts().values())


_JOURNEY = ('embedding', 'patches', 'positions', 'embedding_norm', 'encoder', 'blocks', 'final_norm', 'lm_head')


def parameter_table(model: ModelConfig) -> list[Part]:
    """Every tensor of the model, in the order a token meets them: (part, shape, count)."""
    leaves = named_leaves(parameter_shapes(model))
    leaves.sort(key=lambda leaf: _JOURNEY.index(leaf[0].split('/')[0]))
    return [Part(name, leaf.shape, leaf.size) for name, leaf in leaves]


def parameter_count(model: ModelConfig) -> int:
    """How many numbers are trained; a tied head counts once."""
    return sum(row.count for row in parameter_table(model))


def memory_estimate(config: Config, step: step_memory.Step | None = None) -> MemoryEstimate:
    """Predicts the bytes of one training step, without compiling it.

    Parameters, optimizer state, EMA and batch (with the step's numbers and metrics) are exact. The rest is what exists
    at the worst moment of the step as traced, see `llm.analysis.liveness`: arrays shaped like parameters count as
    `gradients` (updates and working copies are among them), those that end in the vocabulary as `logits`, what the
    layers make, or loops over them keep for the backward pass, as `activations`, and everything else, with the gaps
    between, as `workspace`.

    Args:
        config: the run's, resolved.
        step: the shapes on a mesh, to predict for one of its devices; None is one device alone.
    """
    step = step or step_memory.abstract_step(config)
    predicted, worst = step_memory.predict(step)
    state = {name: sum(map(step_memory.held, jax.tree.leaves(getattr(step.state, name)))) for name in _STATE}
    shapes = {leaf.shape for leaf in jax.tree.leaves(step.state.params)}
    kinds = dict.fromkeys(('gradients', 'activations', 'logits'), 0)
    for stay in worst:
        if stay.shape in shapes:
            kinds['gradients'] += stay.bytes
        elif stay.shape and stay.shape[-1] == config.model.vocab_size:
            kinds['logits'] += stay.bytes
        elif stay.what == 'stacked' or 'blocks' in stay.where.split('/'):
            kinds['activations'] += stay.bytes
    return MemoryEstimate(
        parameters=state['params'],
        optimizer=state['opt_state'],
        ema=state['ema'],
        batch=predicted.arguments + predicted.outputs - predicted.donated - sum(state.values()),
        workspace=predicted.temporaries - sum(kinds.values()),
        **kinds,
    )


_STATE = ('params', 'opt_state', 'ema')
