"""Memory of one training step on one device: predicted from its trace, and as the compiler lays it out."""

import contextlib
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from llm.analysis import communication
from llm.analysis.heap import Stay
from llm.analysis.liveness import temporaries
from llm.analysis.partition import Partition
from llm.analysis.program import from_jaxpr
from llm.config import DPO, SFT, Config, Corrupted, Distillation, Masked, Online, PrefixLM, RewardModel
from llm.objectives.distillation import LOG_PROBS, TOKENS
from llm.parallel import mesh as mesh_lib
from llm.parallel.step import TrainStep
from llm.training.train_state import TrainState, abstract_state, placed_state
from llm.training.train_step import hyperparameters, make_train_step
from llm.tree import named_leaves

POINTER = 8  # bytes in the table of outputs that XLA returns


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device, in the terms of the compiler's `memory_analysis`.

    Attributes:
        arguments: the state, the batch and the numbers of the step.
        outputs: the new state and the metrics.
        donated: of the outputs, what takes the place of arguments.
        temporaries: everything else while the step runs.
    """

    arguments: int
    outputs: int
    donated: int
    temporaries: int

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.donated + self.temporaries

    def to_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self) | {'peak': self.peak}


@dataclasses.dataclass(frozen=True)
class Step:
    """The shapes that a training step is traced with, on a mesh or (None) on one device."""

    config: Config
    mesh: Mesh | None
    state: TrainState
    batch: dict[str, Any]
    hyper: dict[str, Any]


def abstract_step(config: Config, mesh: Mesh | None = None) -> Step:
    """Shapes of all a step takes, with their shardings on the mesh."""
    state = abstract_state(config)
    batch = abstract_batch(config)
    hyper = jax.eval_shape(lambda: hyperparameters(config))
    if mesh is not None:
        put = lambda sharding: lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        state = placed_state(config, mesh)
        batch = {name: put(mesh_lib.batch_sharding(mesh, len(x.shape)))(x) for name, x in batch.items()}
        hyper = jax.tree.map(put(mesh_lib.replicated(mesh)), hyper)
    return Step(config, mesh, state, batch, hyper)


def abstract_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of what one update learns from; see `llm.data.batches`, `llm.objectives`.

    Rankings of a reward model count as pairs. With an online objective the update is one minibatch of responses.
    """
    rows, length = config.training.batch_size, config.data.sequence_length
    array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    if isinstance(config.objective, DPO | RewardModel):
        batch = {'tokens': array('int32', rows, 2, length), 'indices': array('int32', rows)}
        batch |= dict.fromkeys(('prompt_lengths', 'lengths'), array('int32', rows, 2))
        return batch | dict.fromkeys(('scores', 'reference_logprobs'), array('float32', rows, 2))
    if isinstance(config.objective, Online):
        rows = rows * config.objective.rollout.samples_per_prompt // config.objective.rollout.minibatches
        names = ('advantages', 'old_logprobs', 'reference_logprobs', 'old_values', 'returns')
        batch = {'tokens': array('int32', rows, length), 'row_tokens': array('float32', rows)}
        batch |= dict.fromkeys(('prompt_lengths', 'lengths'), array('int32', rows))
        return batch | dict.fromkeys(names, array('float32', rows, length))
    kinds = {'inputs': 'int32', 'targets': 'int32', 'loss_weights': 'float32'}
    documents = dict.fromkeys(('segment_ids', 'positions'), 'int32')
    if isinstance(config.objective, Corrupted):
        return _abstract_corrupted(config, array, kinds, documents)
    if config.data.document_masking:
        kinds |= documents
    batch = {name: array(kind, rows, length) for name, kind in kinds.items()}
    if config.model.image_size is not None and isinstance(config.objective, SFT):
        model = config.model
        most = length // model.patches_per_image  # that fit into a row; the table may have fewer
        shape = (model.image_size, model.image_size, model.image_channels)
        batch |= {'patches': array('int32', rows, length), 'images': array('float32', rows, most, *shape)}
    if isinstance(config.objective, Distillation):  # what the teacher said; the teacher itself is not in the step
        top_k = config.objective.top_k
        batch[LOG_PROBS] = array('float32', rows, length, top_k + 1 if top_k else config.model.vocab_size)
        if top_k:
            batch[TOKENS] = array('int32', rows, length, top_k)
    return batch


def _abstract_corrupted(config: Config, array: Any, kinds: dict, documents: dict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of windows of which a part is hidden; see `llm.data.corruption`."""
    rows, length, objective = config.training.batch_size, config.data.sequence_length, config.objective
    rearranged = config.model.encoder_layers > 0 or not isinstance(objective, Masked | PrefixLM)
    kinds = kinds | (documents if config.data.document_masking or rearranged else {})
    others = {'text_tokens': array('int32', rows)}
    if config.model.encoder_layers:
        names = ('source', 'source_segment_ids', 'source_positions')
        others |= dict.fromkeys(names, array('int32', rows, length))
        length = length if isinstance(objective, PrefixLM) else objective.target_length(length)
    elif not isinstance(objective, Masked):
        others['prefix_lengths'] = array('int32', rows)
        length += 0 if isinstance(objective, PrefixLM) else objective.target_length(length)
    return {name: array(kind, rows, length) for name, kind in kinds.items()} | others


def predict(step: Step) -> tuple[StepMemory, list[Stay]]:
    """Predicts a step's memory without compiling it.

    Arguments and outputs are exact; temporaries follow from when each array of the traced step exists
    (`llm.analysis.liveness`).

    Returns:
        The sizes, and the temporary arrays that exist at the worst moment, largest first.
    """
    given = (step.state, step.batch, step.hyper)
    with contextlib.nullcontext() if step.mesh is None else jax.set_mesh(step.mesh):
        jaxpr, made = jax.make_jaxpr(make_train_step(step.config), return_shape=True)(*given)
    program = from_jaxpr(jaxpr)
    leaves = jax.tree.leaves(step.state)
    donated = range(len(leaves))
    size = lambda result: result.bytes
    if step.mesh is not None:
        inputs = [leaf.sharding.spec for leaf in jax.tree.leaves(given)]
        metrics = [PartitionSpec()] * (len(program.outputs) - len(leaves))
        size = partition = Partition(program, step.mesh, inputs, [leaf.sharding.spec for leaf in leaves] + metrics)
        communication.insert(program, partition)
    found = temporaries(program, donated, size, jax.default_backend() == 'cpu')
    used = program.used_inputs()
    memory = StepMemory(
        arguments=sum(held(leaf) for leaf, read in zip(jax.tree.leaves(given), used) if read),
        outputs=sum(map(held, leaves + jax.tree.leaves(made[1]))) + POINTER * len(program.outputs),
        donated=sum(held(leaf) for leaf, read in zip(leaves, used) if read),
        temporaries=found.bytes,
    )
    return memory, found.worst


def compiled(step: Step) -> StepMemory:
    """Compiles a step and asks the compiler; nothing is run or allocated."""
    given = (step.state, step.batch, step.hyper)
    if step.mesh is None:
        program = jax.jit(make_train_step(step.config), donate_argnums=0).lower(*given).compile()
    else:
        program = TrainStep(step.config, step.mesh, step.state).lower(*given).compile()
    found = program.memory_analysis()
    return StepMemory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )


def held(leaf: Any) -> int:
    """Bytes of an array on one device."""
    sharding = getattr(leaf, 'sharding', None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def parameter_rows(step: Step) -> list[dict[str, Any]]:
    """Name, shape, axes of the mesh along each axis, and bytes per device of every parameter."""
    rows = []
    for name, leaf in named_leaves(step.state.params):
        spec = tuple(leaf.sharding.spec) if step.mesh is not None else ()
        spec = [list(names) if isinstance(names, tuple) else names for names in spec]
        rows.append({'parameter': name, 'shape': list(leaf.shape), 'sharding': spec, 'bytes_per_device': held(leaf)})
    return rows
