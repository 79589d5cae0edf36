"""Where a run starts: its own last checkpoint, else another run's, else the seed."""

from typing import Any

import jax
import numpy as np
from absl import logging

from llm import runtime
from llm.config import Config
from llm.errors import UserError
from llm.training.checkpoint import Checkpoints, load_params
from llm.training.ledger import new_record
from llm.training.train_state import TrainState, abstract_state, create_state, state_from_params
from llm.workdir import Workdir


def initialize(config: Config, checkpoints: Checkpoints, placed: TrainState) -> tuple[TrainState, dict[str, Any], str]:
    """Makes the state to train from.

    The order: resume this workdir's newest good checkpoint; else start from `init_from`; else from the seed.

    Args:
        config: the run's, resolved.
        checkpoints: the workdir's.
        placed: shapes, dtypes and shardings of the state; each device only ever holds its part.

    Returns:
        The state, the run's record at that point, and one line that says where they came from.
    """
    checkpoints.delete_unfinished()
    if checkpoints.steps():
        step = checkpoints.newest_good()
        if step is None:
            raise UserError('every checkpoint of this workdir is damaged; restore a copy, or start in a new workdir')
        checkpoints.delete_after(step)  # the damaged ones, which training will write again
        return restore(checkpoints, step, placed), checkpoints.record(step), f'resumed at step {step}'
    if config.init_from.workdir:
        return _init_from(config, placed)
    create = jax.jit(lambda seed: create_state(config, seed), out_shardings=_shardings(placed))
    state = create(config.seed)
    return state, new_record(), f'started from seed {config.seed}'


def restore(checkpoints: Checkpoints, step: int, placed: TrainState) -> TrainState:
    """The whole state at a checkpoint of this run."""
    items = checkpoints.restore(step, placed, ('params', 'opt_state', 'ema'))
    return _at_step(placed.replace(**items), step, placed)


def _init_from(config, placed):
    source = Workdir.open(config.init_from.workdir)
    theirs = abstract_state(runtime.stored_config(source))
    _check_same_shapes(placed.params, theirs.params, source)
    step, params = load_params(source, config.init_from.step, placed=placed.params)
    state = jax.jit(lambda p: state_from_params(config, p), out_shardings=_shardings(placed))(params)
    record = new_record()
    checkpoints = Checkpoints(source)
    if config.init_from.optimizer_state:
        if jax.tree.structure(theirs.opt_state) != jax.tree.structure(placed.opt_state):
            raise UserError(
                f'{source.path} was trained with another kind of optimizer; set init_from.optimizer_state to False'
            )
        wanted = ('opt_state',) if theirs.ema is None or placed.ema is None else ('opt_state', 'ema')
        state = state.replace(**checkpoints.restore(step, placed, wanted))
    if config.init_from.continue_step:
        state = _at_step(state, step, placed)
        record = checkpoints.record(step)
    checkpoints.close()
    logging.info('initial parameters are those of %s at step %d', source.path, step)
    return state, record, f'started from {source.path} at step {step}'


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
