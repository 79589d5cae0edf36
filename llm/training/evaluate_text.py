"""Held-out text: loss, perplexity and bits per byte."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from llm.config import Config, ModelConfig, NextToken
from llm.data.batches import held_out_windows
from llm.data.examples import held_out_batches
from llm.data.token_store import TokenStore
from llm.model import Transformer
from llm.model.patches import image_inputs
from llm.objectives import next_token
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import Tokenizer

_CHUNK = 1 << 20  # tokens looked up at once


@functools.lru_cache(maxsize=8)
def _likelihoods(config: ModelConfig, mesh: jax.sharding.Mesh) -> Any:
    """The program; evaluators of one model in one process share it, compiled."""
    model, hyper = Transformer(config), next_token.hyperparameters(NextToken())

    @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
    def likelihoods(params, batch):
        documents = {name: batch.get(name) for name in ('segment_ids', 'positions')}
        images = image_inputs(model, params, batch)
        logits = model.apply({'params': params}, batch['inputs'], **documents, **images).logits
        _, nll, _ = next_token.token_losses(logits, batch['targets'], hyper)
        return nll

    return likelihoods


class TextEvaluator:
    """Measures parameters on held-out text: documents, or the answers of conversations. Compiles once.

    Every token of the held-out documents is predicted once, EOS included and BOS not; windows follow each other without
    overlap and each starts without context, unless a stride is asked for. Bits are divided by the UTF-8 bytes of the
    predicted tokens, which over a whole set are the bytes of its documents: where a tokenizer's tokens do not add up to
    these (a space before the first word, text that it normalises), each counts in proportion.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, held_out: Any, mesh: jax.sharding.Mesh):
        """
        Args:
            config: the run's.
            tokenizer: knows the bytes of tokens.
            held_out: a token store for each corpus, or a table of examples.
            mesh: the devices.
        """
        self._config, self._held_out, self._mesh = config, held_out, mesh
        self._exact = tokenizer.exact
        self._byte_lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(config.model.vocab_size)], np.int64)
        self._rows = mesh_lib.padded_rows(mesh, config.evaluation.batch_size)
        self._local = slice(*mesh_lib.local_rows(mesh, self._rows))
        self._likelihoods = _likelihoods(config.model, mesh)

    def measure(self, params: Any, max_windows: int | None = None, stride: int | None = None) -> dict[str, float]:
        """Returns `loss` (nats per token), `perplexity`, `bits_per_byte`, `tokens` and `bytes`.

        Sums are kept in float64 on the host, so the size of a batch does not show beyond the last bits of a product.

        Args:
            params: the parameters.
            max_windows: read about this many windows, spread evenly over the text; None reads all.
            stride: start a window every `stride` tokens and count only its last `stride` targets.
        """
        nats = tokens = size = 0.0
        for batch, scale in self._batches(max_windows, stride):
            weights = batch['loss_weights']
            local = {name: x[self._local] for name, x in batch.items()}
            with jax.set_mesh(self._mesh):
                nll = self._likelihoods(params, mesh_lib.place(self._mesh, self._rows, local))
            nll = np.asarray(nll, np.float64)
            nats += float(np.sum(nll * weights))
            tokens += float(np.sum(weights))
            size += float(np.sum(self._byte_lengths[batch['targets']] * weights)) * scale
        loss = nats / tokens
        return {
            'loss': loss,
            'perplexity': math.exp(min(loss, 700)),
            'bits_per_byte': nats / math.log(2) / max(size, 1),
            'tokens': int(tokens),
            'bytes': round(size),
        }

    def _batches(self, max_windows, stride) -> Iterable[tuple[dict[str, np.ndarray], float]]:
        """Batches, and by how much the bytes of their documents are more than those of their tokens."""
        if not isinstance(self._held_out, list):
            for batch, _ in held_out_batches(self._held_out, self._rows, max_windows):
                yield batch, 1.0
            return
        data = self._config.data
        each = None if max_windows is None else -(-max_windows // len(self._held_out))
        for store in self._held_out:
            scale = 1.0 if self._exact else bytes_scale(store, self._byte_lengths)
            for batch in held_out_windows(store, data.sequence_length, data.document_masking, self._rows, stride, each):
                yield batch, scale


def bytes_scale(store: TokenStore, byte_lengths: Int64[np.ndarray, 'vocabulary']) -> float:
    """By how much the bytes of a store's documents are more than those of its tokens."""
    chunks = (store.tokens[at : at + _CHUNK] for at in range(0, len(store.tokens), _CHUNK))
    return store.num_bytes / max(1, sum(int(byte_lengths[chunk].sum()) for chunk in chunks))
