"""Tokens to bits and back: a model's next-token probabilities drive a range coder.

A range coder (Martin 1979; here that of the library constriction, Bamler 2022) spends -log2 p bits on a token of
probability p, so a text costs its negative log-likelihood: prediction is compression (Delétang et al. 2023). Decoding
has to find the very same probabilities, and a sum of floats depends on how it is cut. So both sides call one compiled
program on the same shapes with the same tokens: one step of decoding through a key-value cache, which reads a token in
each row and gives integer frequencies of what follows.

The tokens of a file are cut into streams, rows of equal length that are coded side by side, a token of each at a time,
by one coder: a step that reads many rows takes less than as many steps. Each stream starts without context. Many
streams go in two halves: while the device reads a token in each row of one, the host codes those of the other, and
where a step leaves a processor idle, both are read at once.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm.errors import MachineError, UserError
from llm.inference.decode import bucket, next_logits, prefill
from llm.model.kv_cache import KVCache
from llm.model.transformer import Transformer

# Frequencies of a distribution add up to about this. With at most one more for each token the sum stays below 2^24, up
# to where float32 holds every integer: so no sum of them that the coder makes is ever rounded.
TOTAL = 2**23
MOST_TOKENS = 2**22  # of a vocabulary
HALVED = 16  # streams, if they are even, from which on they go in two halves
LARGEST_WINDOW = 1024  # tokens that the model sees: a step reads the keys of all of them, in each stream


def frequencies(
    logits: Float[Array, 'streams vocabulary'], codable: Bool[Array, 'vocabulary']
) -> Float[Array, 'streams vocabulary']:
    """Integers in proportion to the probabilities, as float32; at least 1, so that every token can be coded.

    Args:
        logits: of the model.
        codable: tokens that stand for bytes; others (special ones, what fills up the vocabulary) never come.
    """
    probabilities = jax.nn.softmax(jnp.where(codable, logits.astype(jnp.float32), -jnp.inf), axis=-1)
    return jnp.floor(probabilities * TOTAL) + 1.0


@functools.partial(jax.jit, static_argnames=('model', 'streams', 'capacity'))
def empty(model: Transformer, streams: int, capacity: int) -> KVCache:
    """A cache whose arrays are its own, so that `step` can reuse their memory."""
    return KVCache.create(model.config, streams, capacity)


@functools.partial(jax.jit, static_argnames='model', donate_argnames='cache')
def step(
    model: Transformer, params: Any, cache: KVCache, tokens: Int[Array, 'streams'], codable: Bool[Array, 'vocabulary']
) -> tuple[Float[Array, 'streams vocabulary'], KVCache]:
    """Reads a token in each stream; returns the frequencies of what follows, and the cache with the token in it."""
    logits, cache = next_logits(model, params, cache, tokens, jnp.ones(tokens.shape, bool))
    return frequencies(logits, codable), cache


class Predictor:
    """Gives the frequencies of the next tokens of some streams; a function of nothing but the tokens it is given.

    A stream longer than the window slides: when the window is full, its older half is forgotten and the rest is read
    again, at positions from 0.

    Attributes:
        streams: how many.
        fingerprint: digest of the first frequencies; None before them.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        codable: Bool[np.ndarray, 'vocabulary'],
        streams: int,
        length: int,
        window: int,
    ):
        """
        Args:
            model: the model.
            params: as `llm.inference.prepared` makes them.
            codable: see `frequencies`.
            streams: rows.
            length: tokens of a stream.
            window: most tokens that the model sees, up to its context.

        Raises:
            UserError: if the vocabulary is too large.
        """
        if model.config.vocab_size > MOST_TOKENS:
            raise UserError(
                f'a vocabulary of {model.config.vocab_size:,} is too large to code; at most {MOST_TOKENS:,}'
            )
        self.streams, self.fingerprint = streams, None
        self._model, self._params, self._codable = model, params, jnp.asarray(codable)
        self._capacity = bucket(length, window)
        self._cache = empty(model, streams, self._capacity)
        self._recent = np.zeros((streams, self._capacity), np.int32)
        self._held = 0
        self._found: jax.Array | None = None

    def start(self, tokens: Int[np.ndarray, 'streams']) -> None:
        """Begins to read the next token of each stream; does not wait."""
        if self._held == self._capacity:
            self._slide()
        self._recent[:, self._held] = tokens
        self._held += 1
        self._found, self._cache = step(self._model, self._params, self._cache, tokens, self._codable)

    def finish(self) -> Float[np.ndarray, 'streams vocabulary']:
        """Waits for what was begun; returns the frequencies of what follows.

        Raises:
            MachineError: if the model's numbers are not finite.
        """
        found = np.asarray(self._found)
        if not np.isfinite(found[:, 0]).all():  # one that is not spoils its whole row
            raise MachineError('the model gives probabilities that are not finite; its weights are damaged')
        if self.fingerprint is None:
            self.fingerprint = hashlib.sha256(found.tobytes()).hexdigest()[:32]
        return found

    def _slide(self) -> None:
        kept = self._capacity // 2
        rows = self._recent[:, self._capacity - kept :].copy()
        if kept:
            lengths = np.full(self.streams, kept, np.int32)
            self._cache = prefill(self._model, self._params, rows, lengths, self._capacity)
        else:
            self._cache = empty(self._model, self.streams, self._capacity)
        self._recent[:, :kept] = rows
        self._held = kept


def stream_length(tokens: int, streams: int) -> int:
    """Tokens of each stream but the last ones, which may be shorter or empty."""
    return -(-tokens // streams)


def parts(streams: int) -> list[int]:
    """How many streams each predictor has."""
    return [streams // 2] * 2 if streams >= HALVED and streams % 2 == 0 else [streams]


def encode(
    predictors: Sequence[Predictor],
    tokens: Int[np.ndarray, 'tokens'],
    start: int,
    progress: Callable[[np.ndarray, int], Any] = lambda tokens, size: None,
) -> bytes:
    """Tokens to bits.

    Args:
        predictors: fresh, of `parts` of the streams, and of `stream_length`.
        tokens: at least one, all of them codable.
        start: the token that every stream follows.
        progress: told the tokens of every step, and the bytes of the code so far.
    """
    stream = _library().stream
    coder, family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
    rows = _rows(tokens, sum(predictor.streams for predictor in predictors))

    def code(at, first, found, coding):
        known = np.ascontiguousarray(rows[first : first + len(found), at])
        if coding:
            coder.encode(known[:coding], family, found[:coding])
            progress(known[:coding], coder.num_words() * 4)
        return known

    run(predictors, len(tokens), start, code)
    return coder.get_compressed().astype('<u4').tobytes()


def decode(
    predictors: Sequence[Predictor],
    payload: bytes,
    tokens: int,
    start: int,
    fingerprint: str,
    progress: Callable[[np.ndarray, int], Any] = lambda tokens, size: None,
) -> Int[np.ndarray, 'tokens'] | None:
    """Bits to tokens: the inverse of `encode`.

    Args:
        predictors: fresh, like those that encoded.
        payload: what `encode` returned.
        tokens: how many there are.
        start: as there.
        fingerprint: of the first predictor that encoded.
        progress: told the tokens of every step, and the bytes of the code, all of it.

    Returns:
        The tokens; None if these predictors have another fingerprint, or find bits that cannot be.
    """
    stream = _library().stream
    coder = stream.queue.RangeDecoder(np.frombuffer(payload, '<u4').astype(np.uint32))
    family = stream.model.Categorical(perfect=False)
    rows = _rows(np.zeros(tokens, np.int32), sum(predictor.streams for predictor in predictors))

    def code(at, first, found, coding):
        if predictors[0].fingerprint != fingerprint:
            raise _OtherNumbers
        now = np.zeros(len(found), np.int32)
        if coding:
            try:
                now[:coding] = coder.decode(family, found[:coding])
            except (AssertionError, ValueError):  # how the library says that no token has these bits
                raise _OtherNumbers from None
            progress(now[:coding], len(payload))
        rows[first : first + len(found), at] = now
        return now

    try:
        run(predictors, tokens, start, code)
    except _OtherNumbers:
        return None
    return rows.reshape(-1)[:tokens]


class _OtherNumbers(Exception):
    """The probabilities are not those that encoded."""


def run(predictors: Sequence[Predictor], tokens: int, start: int, code: Callable[..., np.ndarray]) -> None:
    """The loop of both sides: `code(place, first stream, frequencies, streams that have a token there)` -> tokens."""
    streams = sum(predictor.streams for predictor in predictors)
    length = stream_length(tokens, streams)
    for predictor in predictors:
        predictor.start(np.full(predictor.streams, start, np.int32))
    for at in range(length):
        coding = min(streams, (tokens - 1 - at) // length + 1)  # the first ones: the others have ended
        first = 0
        for predictor in predictors:
            here = min(max(coding - first, 0), predictor.streams)
            now = code(at, first, predictor.finish(), here)
            if at + 1 < length:
                predictor.start(now)
            first += predictor.streams


def _rows(tokens: Int[np.ndarray, 'tokens'], streams: int) -> Int[np.ndarray, 'streams length']:
    """The tokens as streams, the end filled up with 0."""
    rows = np.zeros((streams, stream_length(len(tokens), streams)), np.int32)
    rows.reshape(-1)[: len(tokens)] = tokens
    return rows


def _library() -> Any:
    """The module constriction.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise UserError(
            "compression needs constriction; install it with pip install 'glassbox-llm[compression]'"
        ) from error
    return constriction
