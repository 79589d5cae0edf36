"""The teacher of a distillation: opened and checked, asked beside each step, or asked once and its answers kept."""

import functools
import hashlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Int64
from tqdm import tqdm

from llm import cache, runtime
from llm.config import DPO, SFT, Config, Distillation, ModelConfig, NextToken, Online
from llm.data.batches import TrainBatches
from llm.data.prepare import Prepared
from llm.errors import UserError
from llm.model import Transformer
from llm.objectives.distillation import LOG_PROBS, TOKENS, predictions
from llm.parallel import mesh as mesh_lib
from llm.parallel.row_programs import RowPrograms
from llm.parallel.step import TrainStep
from llm.tokenizer import Tokenizer, open_workdir
from llm.training.checkpoint import Checkpoints, checked_step, load_params
from llm.training.train_state import TrainState
from llm.workdir import Workdir, write_atomically

_FORMAT = 1  # part of every key: raised when what is stored changes
_KEPT = np.float16  # 11 bits of a log-probability; what is lost is measured


def teacher_workdir(objective: Distillation) -> Workdir:
    """The teacher's.

    Raises:
        UserError: if none is named, or it is none.
    """
    if not objective.teacher:
        raise UserError('objective distillation has no teacher; name its workdir with --objective.teacher')
    return Workdir.open(objective.teacher)


def teacher_checkpoint(objective: Distillation) -> tuple[int, str]:
    """The step of the teacher that is asked, and a sum over its files.

    Raises:
        UserError: if it has no such checkpoint, or it is damaged.
    """
    workdir = teacher_workdir(objective)
    checkpoints = Checkpoints(workdir.checkpoints)
    step = checked_step(workdir, checkpoints, objective.teacher_step)
    return step, checkpoints.digest(step)


def check_teacher(config: Config, tokenizer: Tokenizer) -> None:
    """Refuses a teacher whose predictions say nothing about the student's tokens.

    Args:
        config: the student's.
        tokenizer: the student's.

    Raises:
        UserError: if the teacher does not predict next tokens, or reads others than the student, or shorter rows.
    """
    path, length = config.objective.teacher, config.data.sequence_length
    workdir = teacher_workdir(config.objective)
    theirs = workdir.config()
    if not isinstance(theirs.objective, NextToken | SFT | DPO | Online):
        raise UserError(
            f'objective.teacher: {path} was trained with objective {theirs.objective.kind}, which predicts no next '
            'token; give the workdir of a model that continues texts'
        )
    if open_workdir(workdir.path).digest != tokenizer.digest:
        raise UserError(
            f'objective.teacher: {path} has another tokenizer than the student, so they speak of other tokens; start '
            'the student from a run with the same one, or from its seed'
        )
    if theirs.model.vocab_size != config.model.vocab_size:
        raise UserError(
            f'objective.teacher: {path} predicts {theirs.model.vocab_size} tokens and the student '
            f'{config.model.vocab_size}; set model.vocab_size to the teacher’s'
        )
    if theirs.model.context_length < length:
        raise UserError(
            f'objective.teacher: {path} reads {theirs.model.context_length} tokens and rows have {length}; lower '
            'data.sequence_length'
        )


@functools.lru_cache(maxsize=8)
def _program(model: ModelConfig, top_k: int, mesh: Mesh, mapped: bool) -> Any:
    """What asks a teacher; runs in one process that have the same share it, compiled."""
    ask = lambda params, batch, temperature: predictions(Transformer(model), params, batch, temperature, top_k)
    return RowPrograms(mesh, mapped).wrap(ask, (None, 0, None), 0)


class Teacher:
    """A model that is asked, and does not learn."""

    def __init__(self, config: Config, mesh: Mesh):
        """
        Args:
            config: the student's, resolved.
            mesh: the devices.
        """
        objective = config.objective
        workdir = teacher_workdir(objective)
        self.model = runtime.usable_config(workdir).model
        self.step, self.params = load_params(workdir, objective.teacher_step, mesh=mesh)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        self._programs = RowPrograms(mesh, config.parallel.wrapper == 'pmap')
        self._ask = _program(self.model, objective.top_k, mesh, self._programs.mapped)
        self._temperature = jnp.float32(objective.temperature)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What it predicts for a batch that is in its place; see `llm.objectives.distillation.predictions`."""
        read = {name: batch[name] for name in ('inputs', 'segment_ids', 'positions') if name in batch}
        with self._programs.context():
            return self._ask(self.params, read, self._temperature)


class TaughtStep(TrainStep):
    """The train step, with the teacher's predictions put beside every batch.

    Attributes:
        facts: about the teacher, for summary.json.
    """

    def __init__(self, config: Config, mesh: Mesh, placed: TrainState, data: Prepared):
        """
        Args:
            config: the run's, resolved.
            mesh: the devices.
            placed: the state's shapes with their shardings, which every new state keeps.
            data: the run's.
        """
        super().__init__(config, mesh, placed)
        objective = config.objective
        self._teacher: Teacher | None = Teacher(config, mesh)
        self._stored: StoredPredictions | None = None
        self.facts = {
            'workdir': objective.teacher,
            'step': self._teacher.step,
            'parameters': self._teacher.parameters,
        }
        if objective.stored:
            self._stored = stored_predictions(config, data, self._teacher, mesh)
            self._teacher = None  # its memory is free again
            self.facts |= self._stored.facts

    def place(self, local: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's rows of a batch where the step wants them, with the teacher's predictions for them."""
        if self._stored is not None:
            rows = {name: x for name, x in local.items() if name != 'windows'}
            return super().place(rows | self._stored.columns(local['windows']))
        batch = super().place(local)
        return batch | self._teacher(batch)


class StoredPredictions:
    """A teacher's likeliest tokens at every position of every training window, on disk.

    tokens.npy      (windows, length, top_k) uint16, or uint32 for large vocabularies
    log_probs.npy   (windows, length, top_k + 1) float16: of these tokens, and of all others together
    facts.json      what was left out and rounded away
    """

    def __init__(self, folder: pathlib.Path):
        """
        Raises:
            UserError: if it is damaged.
        """
        try:
            self._tokens, self._log_probs = (
                np.load(folder / f'{n}.npy', mmap_mode='r') for n in ('tokens', 'log_probs')
            )
            self.facts = json.loads((folder / 'facts.json').read_text())
        except (OSError, ValueError) as error:
            raise UserError(f'{folder} is damaged ({error}); delete it and run again') from error

    def columns(self, windows: Int64[np.ndarray, 'rows']) -> dict[str, np.ndarray]:
        """What the teacher says about some windows, as `predictions` would, but rounded."""
        return {
            TOKENS: self._tokens[windows].astype(np.int32),
            LOG_PROBS: self._log_probs[windows].astype(np.float32),
        }


def stored_predictions(config: Config, data: Prepared, teacher: Teacher, mesh: Mesh) -> StoredPredictions:
    """Opens what the teacher says about all training windows; asks it first where that is not in the cache.

    Runs share it that have the same data in the same windows: other seeds, sizes, divergences and weights.

    Raises:
        UserError: on several processes, or if what is there is damaged.
    """
    if jax.process_count() > 1:
        raise UserError('objective.stored works on one process; set it to False, and the teacher is asked at each step')
    objective = config.objective
    parts = {
        'format': _FORMAT,
        'teacher': teacher_checkpoint(objective)[1],
        'compute_dtype': teacher.model.compute_dtype,
        'device_kind': mesh.devices.flat[0].device_kind,
        'data': data.digest,
        'length': config.data.sequence_length,
        'document_masking': config.data.document_masking,
        'temperature': objective.temperature,
        'top_k': objective.top_k,
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
    description = f'top {objective.top_k} of {objective.teacher} for {", ".join(config.data.corpora)}'
    folder = cache.entry('teachers', key, lambda path: _store(path, config, data, teacher, mesh), description)
    return StoredPredictions(folder)


def _store(folder: pathlib.Path, config: Config, data: Prepared, teacher: Teacher, mesh: Mesh) -> None:
    batches, top_k = TrainBatches(config, data.train), config.objective.top_k
    rows = mesh_lib.padded_rows(mesh, max(config.training.batch_size, config.evaluation.batch_size))
    programs = RowPrograms(mesh, config.parallel.wrapper == 'pmap')
    count, length = batches.windows_per_epoch, config.data.sequence_length
    kind = np.uint16 if config.model.vocab_size <= 2**16 else np.uint32
    create = functools.partial(np.lib.format.open_memmap, mode='w+')
    tokens = create(folder / 'tokens.npy', dtype=kind, shape=(count, length, top_k))
    log_probs = create(folder / 'log_probs.npy', dtype=_KEPT, shape=(count, length, top_k + 1))
    rest = rounded = positions = 0.0
    for first in tqdm(range(0, count, rows), f'asking the teacher, top {top_k}', disable=None, leave=False):
        windows = np.minimum(np.arange(first, first + rows), count - 1)  # the last batch is filled with its last row
        local = batches.cut(windows)
        told = {name: programs.local(x) for name, x in teacher(programs.place(local)).items()}
        real = min(rows, count - first)
        exact, kept = told[LOG_PROBS][:real].astype(np.float64), told[LOG_PROBS][:real].astype(_KEPT)
        tokens[first : first + real], log_probs[first : first + real] = told[TOKENS][:real], kept
        counted = local['loss_weights'][:real]
        kept = kept.astype(np.float64)
        kept -= np.log(np.exp(kept).sum(-1, keepdims=True))
        rest += (np.exp(exact[..., -1]) * counted).sum()
        rounded += ((np.exp(exact) * (exact - kept)).sum(-1) * counted).sum()
        positions += counted.sum()
    tokens.flush()
    log_probs.flush()
    facts = {
        'top_k': top_k,
        'stored_bytes': tokens.nbytes + log_probs.nbytes,
        'mean_rest': float(rest / positions),  # probability of the tokens that are not told apart
        'mean_rounding_kl': float(rounded / positions),  # nats
    }
    logging.info(
        'the teacher’s top %d tokens have %.2f%% of its probability; the rest is not told apart',
        *(top_k, 100 * (1 - facts['mean_rest'])),
    )
    write_atomically(folder / 'facts.json', json.dumps(facts, indent=1) + '\n')
