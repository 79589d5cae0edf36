"""How likely a model finds texts that are given: log-likelihoods of continuations, batched by length.

Multiple choice, minimal pairs and the adapter to lm-evaluation-harness all ask for this. A request is a context and a
continuation in ids. Requests that are read alike (the same context before different single-token choices, say) share a
row, the vocabulary is projected onto only where a token is asked for, and rows of about the same length are read
together, padded on the right to a power of two: so few programs are compiled, whatever the texts.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm.config import ParallelConfig
from llm.errors import MachineError, UserError
from llm.inference.decode import bucket
from llm.model.transformer import Transformer
from llm.objectives.log_probs import LOGITS_AT_ONCE
from llm.parallel import mesh as mesh_lib

TOKENS_AT_ONCE = 2**13  # in a batch, padding included; a longer row is read alone
SHORTEST_ROW = 16  # tokens a row is padded to at least
_QUERIES = 4  # tokens asked for are padded to powers of this


class Pair(NamedTuple):
    """A continuation whose likelihood is asked for, and what precedes it; neither is empty."""

    context: Sequence[int]
    continuation: Sequence[int]


class Score(NamedTuple):
    """What the model says of a continuation.

    Attributes:
        logprob: log-probability in nats, summed over its tokens.
        greedy: whether each of its tokens is the most probable one at its place.
        tokens: how many there are.
        truncated: tokens of the context that were left out, the first ones, to fit the model's.
    """

    logprob: float
    greedy: bool
    tokens: int
    truncated: int


class TargetScores(NamedTuple):
    """What a model says about single tokens, in float32."""

    logprob: Float[Array, '*batch']  # of the target, in nats
    top_logprob: Float[Array, '*batch']  # of the most probable token
    hit: Bool[Array, '*batch']  # whether that one is the target; of equals it is the first


def target_scores(
    model: Transformer, params: Any, hidden: Float[Array, '*batch width'], targets: Int[Array, '*batch']
) -> TargetScores:
    """Scores tokens from the hidden vectors that predict them, a part of the logits at a time where they are large."""
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    size = max(1, LOGITS_AT_ONCE // model.config.vocab_size)

    def score(part):
        hidden, targets = part
        logits = model.apply({'params': params}, hidden, method='unembed').astype(jnp.float32)
        total = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return TargetScores(chosen - total, jnp.max(logits, axis=-1) - total, jnp.argmax(logits, axis=-1) == targets)

    if flat.shape[0] <= size:
        found = score((flat, wanted))
    else:
        parts = -(-flat.shape[0] // size)
        padding = parts * size - flat.shape[0]
        cut = lambda x: jnp.pad(x, ((0, padding), *[(0, 0)] * (x.ndim - 1))).reshape(parts, size, *x.shape[1:])
        found = jax.lax.map(score, (cut(flat), cut(wanted)))
        found = jax.tree.map(lambda x: x.reshape(-1)[: flat.shape[0]], found)
    return jax.tree.map(lambda x: x.reshape(targets.shape), found)


@functools.partial(jax.jit, static_argnames=('model', 'mesh'))
def _read(
    model: Transformer,
    mesh: jax.sharding.Mesh,
    params: Any,
    tokens: Int[Array, 'rows length'],
    places: Int[Array, 'rows queries'],
    targets: Int[Array, 'rows queries'],
) -> TargetScores:
    """Reads right-padded rows; scores `targets` as what follows the tokens at `places`."""
    hidden = model.apply({'params': params}, tokens, with_logits=False).hidden
    chosen = jnp.take_along_axis(hidden, places[:, :, None], axis=1)
    found = target_scores(model, params, chosen, targets)
    return jax.lax.with_sharding_constraint(found, mesh_lib.replicated(mesh))


class _Row(NamedTuple):
    """Tokens to read, and what is asked about them."""

    tokens: tuple[int, ...]
    queries: list[tuple[int, int, int]]  # number of the pair, place, target

    def shape(self, context: int) -> tuple[int, int]:
        """Tokens and queries that the row is padded to."""
        length = min(max(bucket(len(self.tokens), context), SHORTEST_ROW), context)
        queries = _QUERIES
        while queries < len(self.queries):
            queries *= _QUERIES
        return length, queries


class Scorer:
    """A model that scores continuations; its rows are shared out over all devices."""

    def __init__(self, model: Transformer, params: Any, tokens_at_once: int = TOKENS_AT_ONCE):
        """
        Args:
            model, params: the model.
            tokens_at_once: of a batch, padding included.
        """
        self.model, self._tokens_at_once = model, tokens_at_once
        self._mesh = mesh_lib.make_mesh(ParallelConfig())
        self._params = jax.device_put(params, mesh_lib.replicated(self._mesh))

    def score(self, pairs: Sequence[Pair], progress: Callable[[int], Any] = lambda pairs: None) -> list[Score]:
        """Scores continuations, each as if it were alone.

        A context that is too long loses its first tokens; a continuation has to fit.

        Args:
            pairs: in any order.
            progress: told how many pairs are done, batch by batch; the longest come first.

        Raises:
            UserError: if a continuation does not fit the model's context, or an id is none of the model's.
            MachineError: if the model's numbers are not finite.
        """
        context = self.model.config.context_length
        rows: dict[tuple[int, ...], _Row] = {}
        truncated = []
        for number, pair in enumerate(pairs):
            tokens, cut = _fit(pair, context, self.model.config.vocab_size)
            truncated.append(cut)
            row = rows.setdefault(tokens, _Row(tokens, []))
            first = len(tokens) - len(pair.continuation)
            row.queries.extend((number, first + i, target) for i, target in enumerate(pair.continuation))
        ordered = sorted(rows.values(), key=lambda row: row.shape(context), reverse=True)

        logprobs, greedy = np.zeros(len(pairs), np.float64), np.ones(len(pairs), bool)
        start = 0
        while start < len(ordered):
            length, queries = shape = ordered[start].shape(context)
            most = max(1, self._tokens_at_once // length)
            stop = start
            while stop < len(ordered) and stop - start < most and ordered[stop].shape(context) == shape:
                stop += 1
            batch = ordered[start:stop]
            found = self._score_rows(batch, length, queries)
            for i, row in enumerate(batch):
                for j, (number, _, _) in enumerate(row.queries):
                    logprobs[number] += found.logprob[i, j]
                    greedy[number] &= found.hit[i, j]
            progress(len({number for row in batch for number, _, _ in row.queries}))
            start = stop
        if not np.isfinite(logprobs).all():
            raise MachineError('the model gives log-likelihoods that are not finite; its weights are damaged')
        lengths = [len(pair.continuation) for pair in pairs]
        return [Score(*each) for each in zip(logprobs.tolist(), greedy.tolist(), lengths, truncated)]

    def _score_rows(self, batch: Sequence[_Row], length: int, queries: int) -> TargetScores:
        rows = mesh_lib.padded_rows(self._mesh, bucket(len(batch), 2**30))
        tokens = np.zeros((rows, length), np.int32)
        places, targets = np.zeros((2, rows, queries), np.int32)
        for i, row in enumerate(batch):
            tokens[i, : len(row.tokens)] = row.tokens
            _, places[i, : len(row.queries)], targets[i, : len(row.queries)] = zip(*row.queries)
        local = slice(*mesh_lib.local_rows(self._mesh, rows))
        arrays = {'tokens': tokens[local], 'places': places[local], 'targets': targets[local]}
        with jax.set_mesh(self._mesh):
            found = _read(self.model, self._mesh, self._params, **mesh_lib.place(self._mesh, rows, arrays))
        return TargetScores(*map(np.asarray, found))


def _fit(pair: Pair, context: int, vocab_size: int) -> tuple[tuple[int, ...], int]:
    """The tokens to read for a pair, and how many had to be left out at the start."""
    ids, continuation = (*pair.context, *pair.continuation), len(pair.continuation)
    if not pair.context or not continuation:
        raise UserError('a context or a continuation has no tokens; give each at least one')
    if not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise UserError(f'a text has token id {wrong}; the model knows 0 to {vocab_size - 1}')
    if continuation > context:
        raise UserError(f"a continuation has {continuation} tokens and the model's context is {context}; shorten it")
    read = ids[-(context + 1) :][:-1]
    return read, len(ids) - 1 - len(read)


def rolling_pairs(ids: Sequence[int], prefix: int, context: int) -> list[Pair]:
    """Cuts a text into pairs whose continuations are all of it, each with as much before it as the model can read.

    The first window follows `prefix` alone; each next one starts with the token before it. The last is moved back, so
    that it is full too. So does lm-evaluation-harness.

    Args:
        ids: the text.
        prefix: what it follows, a beginning-of-sequence token.
        context: tokens a model reads at once.
    """
    pairs = [Pair([prefix], ids[:context])] if ids else []
    for start in range(context, len(ids), context):
        end = min(start + context, len(ids))
        pairs.append(Pair(ids[end - context - 1 : start], ids[start:end]))
    return pairs
