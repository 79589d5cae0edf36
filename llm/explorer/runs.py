"""The runs that a page shows: opened once, their parameters read when a checkpoint is first looked at."""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from llm import config_json, runtime
from llm.analysis import embeddings
from llm.analysis.memory import parameter_count
from llm.config import ModelConfig
from llm.errors import UserError
from llm.explorer.kept import Kept
from llm.inference.reading import require_causal
from llm.tokenizer import open_workdir
from llm.training import checkpoint
from llm.workdir import Workdir

PARAMETER_BYTES = 4 * 2**30  # of checkpoints kept in memory; the one in use stays whatever its size
VECTOR_BYTES = 2**29  # of tokens at length 1, the same


def for_reading(config: ModelConfig) -> ModelConfig:
    """The same model in float32 at least: what a page adds up must come to the logit."""
    return dataclasses.replace(
        config,
        compute_dtype=np.promote_types(np.dtype(_name(config.compute_dtype)), np.float32).name,
        logit_dtype='float32',
        attention_backend='auto',
        remat='none',
        dropout=0.0,
    )


def _name(dtype: str) -> str:
    return 'float32' if dtype == 'bfloat16' else dtype  # NumPy has no bfloat16


class Run:
    """A workdir, open.

    Attributes:
        workdir: where it lies.
        name: for people; unique among the runs of a page.
        config: as it was trained.
        trained: the model's config with the choices of its first start, as far as this machine has them.
        model: the model's config for reading, see `for_reading`.
        tokenizer: its own.
    """

    def __init__(self, workdir: Workdir, name: str):
        """Opens a run.

        Raises:
            UserError: if it has no checkpoint, or another kind of model than a page can show.
        """
        self.workdir, self.name = workdir, name
        config = runtime.usable_config(workdir)
        if config.objective.kind == 'reward_model':
            raise UserError(f'{workdir.path} is a reward model, which predicts no token; name another run')
        require_causal(config, workdir.path, 'this page')
        self.config, self.trained, self.model = config, config.model, for_reading(config.model)
        if not self.steps():
            raise UserError(f'{workdir.path} has no checkpoint yet; train it first')
        self.tokenizer = open_workdir(workdir.path)
        self.tokenizer.check_fits(self.model.vocab_size)
        self._parameters = parameter_count(self.model)

    def steps(self) -> list[int]:
        """Checkpoints, oldest first: a run that trains makes more of them."""
        return checkpoint.Checkpoints(self.workdir.checkpoints).steps()

    @functools.cached_property
    def pieces(self) -> list[str]:
        """The piece of every token."""
        return [self.tokenizer.piece(i) for i in range(self.tokenizer.vocab_size)]

    @functools.cached_property
    def written(self) -> np.ndarray:
        """Which tokens a text can come to, see `embeddings.written_tokens`."""
        return embeddings.written_tokens(self.tokenizer, self.model.vocab_size)

    def card(self, number: int) -> dict[str, Any]:
        """What the page says of a run."""
        model, stored = self.model, self.workdir.runtime()
        return {
            'run': number,
            'name': self.name,
            'path': str(self.workdir.path),
            'steps': self.steps(),
            'objective': self.config.objective.kind,
            'layers': model.num_layers,
            'heads': model.num_heads,
            'kv_heads': model.kv_heads,
            'head_dim': model.key_size,
            'width': model.width,
            'feed_forward_width': model.hidden_width,
            'vocabulary': model.vocab_size,
            'context': model.context_length,
            'positions': model.position,
            'norm': model.norm,
            'norm_placement': model.norm_placement,
            'activation': model.activation,
            'tied': model.tied_embeddings,
            'parameters': self._parameters,
            # Nothing but the reference has scores and weights to show, and it is what reads with a KV cache.
            'kernel': {
                'training': stored.get('attention_backend', self.trained.attention_backend),
                'here': 'reference',
            },
            'dtype': {'training': self.trained.compute_dtype, 'here': model.compute_dtype},
            'tokenizer': self.tokenizer.digest,
            'config': config_json.to_dict(self.config),
        }


class Runs:
    """The runs of a page, in order."""

    def __init__(self, runs: Sequence[Run]):
        self._runs = list(runs)
        self._params, self._reading = Kept(PARAMETER_BYTES), threading.Lock()
        self._vectors = Kept(VECTOR_BYTES)

    def __iter__(self):
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, number: int) -> Run:
        """The run of that number.

        Raises:
            UserError: if there is none.
        """
        if not 0 <= number < len(self._runs):
            raise UserError(f'there is no run {number}; there are {len(self._runs)}, from 0')
        return self._runs[number]

    def params(self, number: int, step: int | None) -> tuple[int, Any]:
        """The step meant (None is the newest) and the parameters there. Several threads may ask.

        Raises:
            UserError: if there is no such checkpoint, or it is damaged.
        """
        run = self[number]
        steps = run.steps()
        if not steps:
            raise UserError(f'{run.workdir.path} has no checkpoint any more')
        wanted = steps[-1] if step is None else step
        with self._reading:
            if (number, wanted) in self._params:
                return wanted, self._params[number, wanted]
            found, params = checkpoint.load_params(run.workdir, step)
            self._params.put((number, found), params, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
            return found, params

    def unit_vectors(self, number: int, step: int | None) -> np.ndarray:
        """What each token brings into the first block at a checkpoint, at length 1: see `embeddings.unit_vectors`."""
        step, params = self.params(number, step)
        if (number, step) in self._vectors:
            return self._vectors[number, step]
        vectors = embeddings.unit_vectors(params, self[number].model)
        return self._vectors.put((number, step), vectors, vectors.nbytes)

    def check_comparable(self, left: int, right: int) -> None:
        """Raises UserError if two runs read the same text as different tokens."""
        one, other = self[left], self[right]
        if one.tokenizer.digest != other.tokenizer.digest:
            raise UserError(
                f'{one.workdir.path} and {other.workdir.path} have different tokenizers, so their tokens cannot be '
                'laid side by side; explore them one at a time'
            )


def open_runs(paths: Sequence[pathlib.Path]) -> Runs:
    """Opens workdirs; those whose folders have one name are told apart by a number.

    Raises:
        UserError: for what is no workdir, has no checkpoint, or has another tokenizer than the first.
    """
    names: list[str] = []
    for path in paths:
        name = path.resolve().name
        names.append(name if name not in names else f'{name} ({len(names) + 1})')
    runs = Runs([Run(Workdir.open(path), name) for path, name in zip(paths, names)])
    for number in range(1, len(runs)):
        runs.check_comparable(0, number)
    return runs
