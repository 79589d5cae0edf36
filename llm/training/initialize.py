"""Where a run starts: its own last checkpoint, else another run's, else the seed."""

import functools
from typing import Any

import jax
import numpy as np
from absl import logging

from llm import runtime
from llm.config import Config
from llm.errors import UserError
from llm.training.checkpoint import Checkpoints, load_frozen, load_params
from llm.training.ledger import new_record
from llm.training.train_state import (
    HEADS,
    TrainState,
    abstract_state,
    create_state,
    initial_model,
    keeps_base,
    parameter_shapes,
    state_from_params,
)
from llm.training.train_step import static
from llm.workdir import Workdir


def initialize(
    config: Config, workdir: Workdir, checkpoints: Checkpoints, placed: TrainState, at: int | None = None
) -> tuple[TrainState, dict[str, Any], str]:
    """Makes the state to train from.

    The order: resume this workdir's newest good checkpoint; else start from `init_from`; else from the seed.

    Args:
        config: the run's, resolved.
        workdir: where what is frozen was put when the run began.
        checkpoints: the workdir's.
        placed: shapes, dtypes and shardings of the state; each device only ever holds its part.
        at: take no checkpoint that is past this step, and remove those that are.

    Returns:
        The state, the run's record at that point, and one line that says where they came from.
    """
    checkpoints.delete_unfinished()
    if checkpoints.steps():
        step = checkpoints.newest_good(at)
        if step is None:
            raise UserError('every checkpoint of this workdir is damaged; restore a copy, or start in a new workdir')
        record = checkpoints.record(step)
        if 'imported_from' in record:
            raise UserError(
                f'{workdir.path} has an imported model, which stays as it is; train in another workdir with '
                f'--init-from.workdir {workdir.path}'
            )
        checkpoints.delete_after(step)  # the damaged ones, which training will write again
        frozen = load_frozen(workdir, placed.frozen) if placed.frozen else {}
        return restore(checkpoints, step, placed, frozen), record, f'resumed at step {step}'
    return begin(config, placed)


def begin(config: Config, placed: TrainState) -> tuple[TrainState, dict[str, Any], str]:
    """The state of a run that has no checkpoint yet; see `initialize`."""
    if config.init_from.workdir:
        return _init_from(config, placed)
    places, tree = jax.tree.flatten(_shardings(placed))
    create = _creator(static(config), tree, tuple(places))
    return create(config.seed), new_record(), f'started from seed {config.seed}'


@functools.lru_cache(maxsize=8)
def _creator(config, tree, places):
    """Runs that differ in numbers only share the program."""
    return jax.jit(lambda seed: create_state(config, seed), out_shardings=jax.tree.unflatten(tree, places))


def restore(checkpoints: Checkpoints, step: int, placed: TrainState, frozen: Any) -> TrainState:
    """The whole state at a checkpoint of this run, beside what is frozen."""
    items = checkpoints.restore(step, placed.stored())
    return _at_step(placed.replace(frozen=frozen, **items), step, placed)


def _init_from(config, placed):
    source = Workdir.open(config.init_from.workdir)
    source_config = runtime.stored_config(source)
    step, model = load_params(source, config.init_from.step, mesh=_mesh(placed))
    expected = parameter_shapes(config.model)
    if 'patches' in expected and 'patches' not in model:
        model = model | {'patches': _fresh_patches(config, source)}
    _check_same_shapes(expected, {name: tree for name, tree in model.items() if name not in HEADS}, source)
    make = jax.jit(lambda model, seed: state_from_params(config, model, seed), out_shardings=_shardings(placed))
    state = make(model, config.seed)
    record = new_record()
    wanted = {}  # beside the model
    if config.init_from.optimizer_state or config.init_from.continue_step:
        _check_fork(config, source_config, source)
    if config.init_from.optimizer_state:
        theirs = abstract_state(source_config)
        if jax.tree.structure(theirs.opt_state) != jax.tree.structure(placed.opt_state):
            raise UserError(
                f'{source.path} was trained with another kind of optimizer, or trained other parameters; set '
                'init_from.optimizer_state to False'
            )
        wanted['opt_state'] = placed.opt_state
        if theirs.ema is not None and placed.ema is not None:
            wanted['ema'] = placed.ema
    if config.init_from.continue_step and placed.controls:
        wanted['controls'] = placed.controls
    checkpoints = Checkpoints(source.checkpoints)
    if wanted:
        state = state.replace(**checkpoints.restore(step, wanted))
    if config.init_from.continue_step:
        if placed.frozen:
            state = state.replace(frozen=load_frozen(source, placed.frozen))  # the start of the run that is forked
        state = _at_step(state, step, placed)
        record = checkpoints.record(step)
    checkpoints.close()
    logging.info('initial parameters are those of %s at step %d', source.path, step)
    return state, record, f'started from {source.path} at step {step}'


def _fresh_patches(config, source):
    """The patch encoder of a model that so far has only read text."""
    if config.lora.rank:
        raise UserError(f'{source.path} has no patch encoder, and adapters do not train one; set lora.rank to 0')
    logging.info('%s reads no images; the patch encoder starts from seed %d', source.path, config.seed)
    return jax.jit(lambda seed: initial_model(config.model, seed)['patches'])(config.seed)


def _check_fork(config, theirs, source):
    """What is taken along belongs to the same parameters, and a fork goes on with the same objective."""
    if config.lora.rank or theirs.lora.rank:
        raise UserError(
            'adapters begin anew in a run that starts from another; set init_from.optimizer_state and '
            'init_from.continue_step to False'
        )
    if not config.init_from.continue_step:
        return
    if config.objective.kind != theirs.objective.kind or keeps_base(config) != keeps_base(theirs):
        raise UserError(
            f'init_from.continue_step forks a run, and {source.path} has objective {theirs.objective.kind}'
            f'{"" if keeps_base(theirs) else " without a reference"}; set it to False'
        )


def _mesh(placed):
    return placed.step.sharding.mesh


def _at_step(state, step, placed):
    return state.replace(step=jax.device_put(np.int32(step), placed.step.sharding))


def _shardings(placed):
    return jax.tree.map(lambda leaf: leaf.sharding, placed)


def _check_same_shapes(expected, found, source):
    expected, found = (
        {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(t)}
        for t in (expected, found)
    )
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f'init_from: parameter {name} is {found.get(name, "absent")} in {source.path} '
                f'and {expected.get(name, "absent")} in this config; make the models agree'
            )
