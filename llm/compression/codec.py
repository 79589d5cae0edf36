"""Tokens to bits and back: a model's next-token probabilities drive a range coder.

A range coder (Martin 1979; here that of the library constriction, Bamler 2022) spends -log2 p bits on a token of
probability p, so a text costs its negative log-likelihood: prediction is compression (Delétang et al. 2023). Decoding
has to find the very same probabilities, and a sum of floats depends on how it is cut. So both sides call one compiled
program on the same shapes with the same tokens: one step of decoding through a key-value cache, which reads a token in
each row and gives integer frequencies of what follows.

The tokens of a file are cut into streams, rows of equal length that are coded side by side, a token of each at a time,
by one coder: a step that reads many rows takes little longer than one. Each stream starts without context.
"""

import functools
import hashlib
from collections.abc import Callable
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
        self._model, self._params, self._codable = model, params, jnp.asarray(codable)
        self._capacity = bucket(length, window)
        self._cache = empty(model, streams, self._capacity)
        self._recent = np.zeros((streams, self._capacity), np.int32)
        self._held = 0
        self.fingerprint: str | None = None

    def read(self, tokens: Int[np.ndarray, 'streams']) -> Float[np.ndarray, 'streams vocabulary']:
        """Reads the next token of each stream.

        Raises:
            MachineError: if the model's numbers are not finite.
        """
        if self._held == self._capacity:
            self._slide()
        self._recent[:, self._held] = tokens
        self._held += 1
        found, self._cache = step(self._model, self._params, self._cache, tokens, self._codable)
        found = np.asarray(found)
        if not np.isfinite(found[:, 0]).all():  # one that is not spoils its whole row
            raise MachineError('the model gives probabilities that are not finite; its weights are damaged')
        if self.fingerprint is None:
            self.fingerprint = hashlib.sha256(found.tobytes()).hexdigest()[:32]
        return found

    def _slide(self) -> None:
        kept = self._capacity // 2
        rows = self._recent[:, self._capacity - kept :].copy()
        if kept:
            lengths = np.full(len(rows), kept, np.int32)
            self._cache = prefill(self._model, self._params, rows, lengths, self._capacity)
        else:
            self._cache = empty(self._model, len(rows), self._capacity)
        self._recent[:, :kept] = rows
        self._held = kept


def stream_length(tokens: int, streams: int) -> int:
    """Tokens of each stream but the last ones, which may be shorter or empty."""
    return -(-tokens // streams)


def _coding(tokens: int, streams: int, at: int) -> int:
    """How many streams, the first ones, have a token at this place."""
    return min(streams, (tokens - 1 - at) // stream_length(tokens, streams) + 1)


def encode(
    predictor: Predictor,
    tokens: Int[np.ndarray, 'tokens'],
    streams: int,
    start: int,
    progress: Callable[[np.ndarray, int], Any] = lambda tokens, size: None,
) -> bytes:
    """Tokens to bits.

    Args:
        predictor: fresh, of so many streams of `stream_length`.
        tokens: at least one, all of them codable.
        streams: rows.
        start: the token that every stream follows.
        progress: told the tokens of every step, and the bytes of the code so far.
    """
    stream = _library().stream
    coder, family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
    length = stream_length(len(tokens), streams)
    rows = np.zeros((streams, length), np.int32)
    rows.reshape(-1)[: len(tokens)] = tokens
    before = np.full(streams, start, np.int32)
    for at in range(length):
        found, coding = predictor.read(before), _coding(len(tokens), streams, at)
        before = np.ascontiguousarray(rows[:, at])
        coder.encode(before[:coding], family, found[:coding])
        progress(before[:coding], coder.num_words() * 4)
    return coder.get_compressed().astype('<u4').tobytes()


def decode(
    predictor: Predictor,
    payload: bytes,
    tokens: int,
    streams: int,
    start: int,
    fingerprint: str,
    progress: Callable[[np.ndarray, int], Any] = lambda tokens, size: None,
) -> Int[np.ndarray, 'tokens'] | None:
    """Bits to tokens: the inverse of `encode`.

    Args:
        predictor: fresh, as the one that encoded.
        payload: what `encode` returned.
        tokens, streams, start: as there.
        fingerprint: of the predictor that encoded, after its first step.
        progress: told the tokens of every step, and the bytes of the code, all of it.

    Returns:
        The tokens; None if this predictor has another fingerprint, or finds bits that cannot be.
    """
    stream = _library().stream
    coder = stream.queue.RangeDecoder(np.frombuffer(payload, '<u4').astype(np.uint32))
    family = stream.model.Categorical(perfect=False)
    length = stream_length(tokens, streams)
    rows = np.zeros((streams, length), np.int32)
    before = np.full(streams, start, np.int32)
    for at in range(length):
        found, coding = predictor.read(before), _coding(tokens, streams, at)
        if predictor.fingerprint != fingerprint:
            return None
        try:
            rows[:coding, at] = coder.decode(family, found[:coding])
        except (AssertionError, ValueError):  # how the library says that no token has these bits
            return None
        before = np.ascontiguousarray(rows[:, at])
        progress(before[:coding], len(payload))
    return rows.reshape(-1)[:tokens]


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
