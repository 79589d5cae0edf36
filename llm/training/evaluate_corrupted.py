"""Held-out text of which a part is hidden: how well that is guessed, and bits per byte where the model defines them."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from llm.config import Config, ModelConfig, NextToken, Objective, PrefixLM
from llm.data.batches import Batch, held_out_windows
from llm.data.corruption import Corruption
from llm.data.token_store import TokenStore
from llm.model import Transformer
from llm.objectives import next_token
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import Tokenizer
from llm.training.evaluate_text import bytes_scale


@functools.lru_cache(maxsize=8)
def _scores(config: ModelConfig, objective: Objective, mesh: jax.sharding.Mesh) -> Any:
    """The program: nats of every target, and whether it is the model's first guess."""
    model, hyper = Transformer(config), next_token.hyperparameters(NextToken())

    @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
    def scores(params, batch):
        logits = model.apply({'params': params}, **next_token.model_inputs(objective, batch)).logits
        return next_token.token_losses(logits, batch['targets'], hyper)[1:]

    return scores


class CorruptedEvaluator:
    """Measures parameters on held-out windows of which the objective hides a part. Compiles once.

    What is hidden in a window follows from its text alone, so that all checkpoints, and all models that share the
    tokenizer and the objective, guess the same. The likelihood of a text is only defined where each token is guessed
    from those before it: of a prefix LM, with a prefix of one token.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, held_out: list[TokenStore], mesh: jax.sharding.Mesh):
        """
        Args:
            config: the run's.
            tokenizer: knows the bytes of tokens.
            held_out: a token store for each corpus.
            mesh: the devices.
        """
        self._config, self._held_out, self._mesh = config, held_out, mesh
        self._corruption = Corruption(config, tokenizer)
        self._exact = tokenizer.exact
        self._byte_lengths = np.array([len(tokenizer.token_bytes(i)) for i in range(config.model.vocab_size)], np.int64)
        self._rows = mesh_lib.padded_rows(mesh, config.evaluation.batch_size)
        self._local = slice(*mesh_lib.local_rows(mesh, self._rows))
        self._scores = _scores(config.model, config.objective, mesh)

    def measure(self, params: Any, max_windows: int | None = None) -> dict[str, float]:
        """Returns `loss` (nats per hidden token), `perplexity`, `accuracy` (of the first guess) and `tokens` (guessed).

        A prefix LM adds `bits_per_byte` and `bytes`, of the text with prefixes of one token: nothing is given away, so
        this is a likelihood, and compares with that of a model that reads from left to right.

        Args:
            params: the parameters.
            max_windows: read about this many windows, spread evenly over the text; None reads all.
        """
        nats, correct, tokens, _ = self._sums(params, max_windows, self._corruption.held_out)
        loss = nats / max(tokens, 1)
        measured = {
            'loss': loss,
            'perplexity': math.exp(min(loss, 700)),
            'accuracy': correct / max(tokens, 1),
            'tokens': int(tokens),
        }
        if isinstance(self._config.objective, PrefixLM):
            nats, _, _, size = self._sums(params, max_windows, lambda batch: self._corruption.with_prefix(batch, 1))
            measured |= {'bits_per_byte': nats / math.log(2) / max(size, 1), 'bytes': round(size)}
        return measured

    def _sums(
        self, params: Any, max_windows: int | None, corrupt: Callable[[Batch], Batch]
    ) -> tuple[float, float, float, float]:
        """Nats, right guesses, targets and their bytes, in float64."""
        nats = correct = tokens = size = 0.0
        for plain, scale in self._windows(max_windows):
            batch = corrupt(plain)
            weights = batch['loss_weights']
            local = {name: x[self._local] for name, x in batch.items()}
            with jax.set_mesh(self._mesh):
                found = self._scores(params, mesh_lib.place(self._mesh, self._rows, local))
            nll, hit = (np.asarray(x, np.float64) for x in found)
            nats += float(np.sum(nll * weights))
            correct += float(np.sum(hit * weights))
            tokens += float(np.sum(weights))
            size += float(np.sum(self._byte_lengths[batch['targets']] * weights)) * scale
        return nats, correct, tokens, size

    def _windows(self, max_windows: int | None) -> Iterator[tuple[Batch, float]]:
        """Batches, and by how much the bytes of their documents are more than those of their tokens."""
        data = self._config.data
        each = None if max_windows is None else -(-max_windows // len(self._held_out))
        for store in self._held_out:
            scale = 1.0 if self._exact else bytes_scale(store, self._byte_lengths)
            for batch in held_out_windows(
                store, data.sequence_length, data.document_masking, self._rows, max_windows=each
            ):
                yield batch, scale
