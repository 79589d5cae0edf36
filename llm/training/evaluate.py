"""Held-out text: loss, perplexity and bits per byte."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from llm import runtime
from llm.config import Config, ParallelConfig
from llm.data.batches import held_out_windows
from llm.data.prepare import prepare
from llm.data.token_store import TokenStore
from llm.errors import UserError
from llm.model import Transformer
from llm.objectives import next_token
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import Tokenizer
from llm.training.checkpoint import load_params, params_sha256
from llm.workdir import Workdir


class Evaluator:
    """Measures parameters on held-out text. Compiles once.

    Every token of the held-out documents is predicted once, EOS included and BOS not; windows follow each other without
    overlap and each starts without context, unless a stride is asked for. Bits are divided by the UTF-8 bytes of the
    predicted tokens, which over a whole set are the bytes of its documents.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, stores: list[TokenStore], mesh: jax.sharding.Mesh):
        self._config, self._stores, self._mesh = config, stores, mesh
        self._byte_lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], np.int64)
        model, hyper = Transformer(config.model), next_token.hyperparameters(config.objective)
        rows = config.evaluation.batch_size
        parts = mesh.shape['data'] * mesh.shape['fsdp']
        self._rows = -(-rows // parts) * parts  # padded up to a multiple of the devices that share rows
        first, end = mesh_lib.local_rows(mesh, self._rows)
        self._local = slice(first, end)

        @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
        def likelihoods(params, batch):
            documents = {name: batch.get(name) for name in ('segment_ids', 'positions')}
            logits = model.apply({'params': params}, batch['inputs'], **documents).logits
            _, nll, _ = next_token.token_losses(logits, batch['targets'], hyper)
            return nll

        self._likelihoods = likelihoods

    def measure(self, params: Any, max_windows: int | None = None, stride: int | None = None) -> dict[str, float]:
        """Returns `loss` (nats per token), `perplexity`, `bits_per_byte`, `tokens` and `bytes`.

        Sums are kept in float64 on the host, so the size of a batch does not show beyond the last bits of a product.

        Args:
            params: the parameters.
            max_windows: read about this many windows, spread evenly over the text; None reads all.
            stride: start a window every `stride` tokens and count only its last `stride` targets.
        """
        nats = tokens = size = 0.0
        for batch in self._batches(max_windows, stride):
            weights = batch['loss_weights']
            local = {name: x[self._local] for name, x in batch.items()}
            with jax.set_mesh(self._mesh):
                nll = self._likelihoods(params, mesh_lib.place(self._mesh, self._rows, local))
            nll = np.asarray(nll, np.float64)
            nats += float(np.sum(nll * weights))
            tokens += float(np.sum(weights))
            size += float(np.sum(self._byte_lengths[batch['targets']] * weights))
        loss = nats / tokens
        return {
            'loss': loss,
            'perplexity': math.exp(min(loss, 700)),
            'bits_per_byte': nats / math.log(2) / max(size, 1),
            'tokens': int(tokens),
            'bytes': int(size),
        }

    def _batches(self, max_windows, stride) -> Iterable[dict[str, np.ndarray]]:
        data = self._config.data
        each = None if max_windows is None else -(-max_windows // len(self._stores))
        for store in self._stores:
            yield from held_out_windows(store, data.sequence_length, data.document_masking, self._rows, stride, each)


def evaluate_checkpoint(
    workdir: Workdir,
    step: int | None = None,
    ema: bool = False,
    batch_size: int | None = None,
    stride: int | None = None,
) -> dict[str, Any]:
    """Measures a stored checkpoint on the whole held-out set.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest.
        ema: the averaged parameters instead of the raw ones.
        batch_size: rows per step; None is the config's.
        stride: see `Evaluator.measure`.
    """
    config = runtime.usable_config(workdir)
    if batch_size is not None:
        if batch_size < 1:
            raise UserError(f'--batch-size is {batch_size}; it must be at least 1')
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, batch_size=batch_size))
    if stride is not None and not 1 <= stride <= config.data.sequence_length:
        raise UserError(f'--stride is {stride}; it must be between 1 and the window of {config.data.sequence_length}')
    tokenizer = Tokenizer.load(workdir.tokenizer_file)
    step, params = load_params(workdir, step, ema)
    mesh = mesh_lib.make_mesh(ParallelConfig())
    evaluator = Evaluator(config, tokenizer, prepare(config, tokenizer).held_out, mesh)
    measured = evaluator.measure(jax.device_put(params, mesh_lib.replicated(mesh)), stride=stride)
    return {'step': step} | measured | {'stride': stride, 'ema': ema, 'params_sha256': params_sha256(params)}
