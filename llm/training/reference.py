"""Log-probabilities of the reference model on every preference: computed once, kept on disk, so that DPO trains with
one model in memory."""

import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from llm.config import DPO, Config
from llm.data.examples import Examples, held_out_batches
from llm.errors import UserError
from llm.model import Transformer
from llm.objectives.dpo import response_log_probs
from llm.parallel import distributed
from llm.parallel import mesh as mesh_lib
from llm.workdir import Workdir

SIDES = ('train', 'held_out')


def needs_reference(config: Config) -> bool:
    """Whether the objective compares the model with the one that training started from."""
    return isinstance(config.objective, DPO) and not config.objective.reference_free


def attach_reference(config: Config, workdir: Workdir, data: Examples, mesh: Mesh, base: Callable[[], Any]) -> None:
    """Gives the tables of preferences their column `reference_logprobs` (rows, 2), in nats, float32.

    Args:
        config: the run's.
        workdir: where they are kept.
        data: the preferences.
        mesh: the devices.
        base: makes the reference's parameters, where they have to be computed.
    """
    forked = config.init_from.workdir if config.init_from.continue_step else ''
    stored = distributed.agree(_find(workdir, forked, data) if distributed.is_main() else None)
    if not stored and forked:
        raise UserError(
            f'{workdir.path} goes on where {forked} was forked, and its reference is not to be had there: '
            f'{Workdir(forked).reference_file} is missing, damaged or of other preferences; restore it'
        )
    if not stored:
        logging.info('computing log-probabilities of the reference model, once')
        params = base()
        columns = {side: _measure(config, getattr(data, side), mesh, params, side) for side in SIDES}
        if distributed.is_main():
            _write(workdir, columns | {'digest': np.array(data.digest)})
        distributed.barrier('reference')
    with np.load(workdir.reference_file) as file:
        for side in SIDES:
            getattr(data, side).extra['reference_logprobs'] = file[side]


def _measure(config: Config, table: Any, mesh: Mesh, params: Any, name: str) -> np.ndarray:
    model = Transformer(config.model)
    rows = mesh_lib.padded_rows(mesh, config.evaluation.batch_size)
    first, end = mesh_lib.local_rows(mesh, rows)

    @jax.jit
    def measure(params, batch):
        return response_log_probs(model, params, *(batch[n] for n in ('tokens', 'prompt_lengths', 'lengths')))

    found = []
    total = -(-len(table) // rows)
    for batch, real in tqdm(held_out_batches(table, rows), f'reference, {name}', total, disable=None, leave=False):
        local = {key: x[first:end] for key, x in batch.items()}
        with jax.set_mesh(mesh):
            found.append(distributed.whole(measure(params, mesh_lib.place(mesh, rows, local)))[:real])
    return np.concatenate(found)


def _find(workdir: Workdir, forked: str, data: Examples) -> bool:
    """Whether the file is there; a fork's is that of the run it comes from."""
    if forked and not workdir.reference_file.is_file() and _is_stored(Workdir(forked), data):
        shutil.copyfile(Workdir(forked).reference_file, workdir.reference_file)
    return _is_stored(workdir, data)


def _is_stored(workdir: Workdir, data: Examples) -> bool:
    """Whether the file is there, whole (a zip has a sum for each array), and of these preferences."""
    try:
        with np.load(workdir.reference_file) as file:
            whole = all(len(file[side]) == len(getattr(data, side)) for side in SIDES)
            return whole and str(file['digest']) == data.digest
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logging.warning('%s is damaged (%s) and is computed again', workdir.reference_file, error)
        return False


def _write(workdir: Workdir, arrays: dict[str, np.ndarray]) -> None:
    temporary = workdir.reference_file.with_suffix('.tmp.npz')
    np.savez(temporary, **arrays)
    temporary.replace(workdir.reference_file)
