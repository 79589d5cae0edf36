"""Token by token through a key-value cache: prompts are read at once, then one compiled loop writes.

A row's last token is always the one not read yet. A step reads it, which gives the distribution of the next, and draws
that. So the prompt but for its last token is read in advance (the prefill), the last token generated is never read,
and prompt + new tokens - 1 tokens must fit the model's context.

Shapes are padded to powers of two (prompts to the right), which bounds the number of programs compiled. How many tokens
a call writes, the sampling settings and the stop tokens are data: changing them compiles nothing.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm.data.images import ImagePrompt, stack
from llm.errors import UserError
from llm.inference import sampling
from llm.inference.reading import ReadPrompt
from llm.inference.sampling import RowSettings, SamplingParams
from llm.model.kv_cache import KVCache
from llm.model.patches import image_inputs
from llm.model.transformer import Source, Transformer

PastContext = Literal['error', 'slide']


class DecodeState(NamedTuple):
    """Where each row stands; immutable, the loop takes one and returns the next.

    Attributes:
        cache: what has been read.
        token: the row's last token, not read yet.
        generated: tokens drawn so far.
        seen: which tokens are in the prompt or were drawn.
        done: rows that write no more.
    """

    cache: KVCache
    token: Int[Array, 'batch']
    generated: Int[Array, 'batch']
    seen: Bool[Array, 'batch vocabulary']
    done: Bool[Array, 'batch']


def bucket(size: int, largest: int) -> int:
    """The smallest power of two that holds `size` (at least 1), but no more than `largest`."""
    return min(1 << max(size - 1, 0).bit_length(), largest)


@functools.partial(jax.jit, static_argnames=('model', 'capacity'))
def prefill(
    model: Transformer,
    params: Any,
    tokens: Int[Array, 'batch length'],
    lengths: Int[Array, 'batch'],
    capacity: int,
    images: Float[Array, 'batch images height width channels'] | None = None,
    patches: Int[Array, 'batch length'] | None = None,
    prefix_lengths: Int[Array, 'batch'] | None = None,
    source: Source | None = None,
) -> KVCache:
    """Reads right-padded rows at once.

    Args:
        model, params: the model.
        tokens: the rows.
        lengths: real tokens of each row; 0 is allowed.
        capacity: tokens the cache has room for.
        images, patches: the images of the rows and where they stand, see `llm.model.patches`; None for text alone.
        prefix_lengths: of a prefix LM, how many tokens of each row see each other.
        source: what the encoder reads first, if there is one.
    """
    cache = KVCache.create(model.config, tokens.shape[0], capacity)
    if source is not None:
        cache = cache._replace(source=model.apply({'params': params}, source, method='read_source'))
    real = jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]
    given = image_inputs(model, params, {'images': images, 'patches': patches})
    if prefix_lengths is not None:
        given |= {'mask_kind': 'prefix', 'prefix_length': prefix_lengths}
    segments = real.astype(jnp.int32)
    read = model.apply({'params': params}, tokens, segment_ids=segments, cache=cache, with_logits=False, **given)
    return read.cache


def next_logits(
    model: Transformer, params: Any, cache: KVCache, token: Int[Array, 'batch'], active: Bool[Array, 'batch']
) -> tuple[Float[Array, 'batch vocabulary'], KVCache]:
    """Reads one token in each active row; returns the logits of what follows, and the cache with the token in it."""
    segments = active.astype(jnp.int32)[:, None]
    read = model.apply({'params': params}, token[:, None], segment_ids=segments, cache=cache)
    return read.logits[:, 0].astype(jnp.float32), read.cache


@functools.partial(jax.jit, static_argnames='model', donate_argnames='state')
def decode(
    model: Transformer,
    params: Any,
    state: DecodeState,
    settings: RowSettings,
    stops: Bool[Array, 'vocabulary'],
    steps: Int[Array, ''],
) -> tuple[DecodeState, Int[Array, 'batch capacity'], Float[Array, 'batch capacity']]:
    """Writes `steps` tokens, or until every row is done.

    Args:
        model, params: the model.
        state: where the rows stand; its memory is reused.
        settings: how each row draws.
        stops: tokens that end a row; they are written.
        steps: at most what the cache has room for.

    Returns:
        The next state; the tokens drawn, behind each other from column 0 (a row's count is how much its `generated`
        grew); and the log-probability that the model, unfiltered, at temperature 1, gave each of them.
    """
    shape = (state.token.shape[0], state.cache.capacity)
    rows = jnp.arange(shape[0])

    def step(carry):
        at, state, tokens, logprobs = carry
        active = ~state.done
        logits, cache = next_logits(model, params, state.cache, state.token, active)
        drawn = sampling.sample(logits, state.seen, settings, state.generated)
        logprob = jax.nn.log_softmax(logits, axis=-1)[rows, drawn]
        state = DecodeState(
            cache=cache,
            token=jnp.where(active, drawn, state.token),
            generated=state.generated + active.astype(jnp.int32),
            seen=state.seen.at[rows, drawn].max(active),
            done=state.done | stops[drawn],
        )
        return at + 1, state, tokens.at[:, at].set(drawn), logprobs.at[:, at].set(logprob)

    def unfinished(carry):
        return (carry[0] < steps) & ~jnp.all(carry[1].done)

    start = jnp.zeros((), jnp.int32), state, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
    return jax.lax.while_loop(unfinished, step, start)[1:]


@functools.partial(jax.jit, static_argnames='model')
def next_token_distribution(
    model: Transformer, params: Any, state: DecodeState, settings: RowSettings
) -> Float[Array, 'batch vocabulary']:
    """The probabilities from which the next step of `decode` will draw."""
    logits, _ = next_logits(model, params, state.cache, state.token, ~state.done)
    return sampling.next_token_distribution(logits, state.seen, settings)


def check_prompt(model: Transformer, prompt: Sequence[int], max_new_tokens: int, past_context: PastContext) -> None:
    """Raises UserError, with the numbers, if a prompt and its continuation do not fit the model."""
    context, length = model.config.context_length, len(prompt)
    if max_new_tokens < 1:
        raise UserError(f'max_new_tokens is {max_new_tokens}; ask for at least 1')
    if length == 0:
        raise UserError('a prompt has no tokens; start it with the beginning-of-sequence token')
    if not 0 <= min(prompt) <= max(prompt) < model.config.vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < model.config.vocab_size)
        raise UserError(f'a prompt has token id {wrong}; the model knows 0 to {model.config.vocab_size - 1}')
    if length > context:
        raise UserError(f"the prompt has {length} tokens and the model's context {context}; shorten the prompt")
    if past_context == 'error' and length + max_new_tokens - 1 > context:
        raise UserError(
            f"a prompt of {length} tokens and {max_new_tokens} new ones go past the model's context of {context}; "
            f'ask for at most {context - length + 1} new tokens, or set past_context to slide'
        )


def read_rows(
    model: Transformer,
    params: Any,
    rows: Sequence[Sequence[int]],
    capacity: int,
    prompts: Sequence[ImagePrompt | None] = (),
) -> KVCache:
    """Prefills rows of different lengths, padded to a bucket of at most `capacity`; images are those of `prompts`."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = _padded(rows, capacity)
    images = stack(prompts, tokens.shape[1]) if any(prompts) else {}
    return prefill(model, params, tokens, lengths, capacity, **images)


def read_prompts(
    model: Transformer, params: Any, prompts: Sequence[ReadPrompt], windows: Sequence[Sequence[int]], capacity: int
) -> KVCache:
    """The cache from which rows of a model that does not read from left to right are continued.

    Their last token is read with the others, since the tokens of a prefix see it, and then once more.

    Args:
        model, params: the model.
        prompts: what each row began with.
        windows: all its tokens so far.
        capacity: tokens the cache has room for.
    """
    lengths = np.array([len(window) for window in windows], np.int32)
    tokens = _padded(windows, capacity)
    given = {}
    if not prompts[0].source:
        given['prefix_lengths'] = np.array([prompt.prefix for prompt in prompts], np.int32)
    else:
        sources = _padded([prompt.source for prompt in prompts], model.config.context_length)
        counts = np.array([len(prompt.source) for prompt in prompts])
        given['source'] = Source(sources, (np.arange(sources.shape[1])[None, :] < counts[:, None]).astype(np.int32))
    cache = prefill(model, params, tokens, lengths, capacity, **given)
    return cache._replace(lengths=cache.lengths - 1)


def _padded(rows: Sequence[Sequence[int]], capacity: int) -> np.ndarray:
    """Rows as one array, padded to a bucket of at most `capacity`."""
    tokens = np.zeros((len(rows), bucket(max(map(len, rows)), capacity)), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return tokens


class Decoder:
    """A batch of prompts being continued, some tokens at a time, on the host's side.

    With `past_context='slide'`, a row whose context is full forgets the oldest half of it and reads the rest again, at
    positions from 0: later tokens depend on that half and on what follows it. The repetition penalty forgets nothing.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        prompts: Sequence[Sequence[int] | ImagePrompt | ReadPrompt],
        settings: Sequence[SamplingParams],
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int] = (),
        past_context: PastContext = 'error',
    ):
        """Reads the prompts.

        Args:
            model, params: the model.
            prompts: at least one row of at least one id, with or without images; or all as `ReadPrompt`s, of a model
                that does not read from left to right.
            settings: how each row draws.
            max_new_tokens: tokens to write, per row.
            stop_ids: tokens that end a row.
            past_context: 'error' refuses what does not fit the context, 'slide' forgets.

        Raises:
            UserError: if a prompt does not fit.
        """
        images = [prompt if isinstance(prompt, ImagePrompt) else None for prompt in prompts]
        if any(images) and past_context == 'slide':
            raise UserError(
                'half of an image cannot be forgotten; leave past_context slide out for prompts with images'
            )
        self._read = [prompt for prompt in prompts if isinstance(prompt, ReadPrompt)]
        if self._read and past_context == 'slide':
            raise UserError(
                'past_context slide is for models that read from left to right; leave it out, and ask for fewer tokens'
            )
        prompts = [prompt.ids if isinstance(prompt, ImagePrompt | ReadPrompt) else prompt for prompt in prompts]
        for prompt in prompts:
            check_prompt(model, prompt, max_new_tokens, past_context)
        for prompt in self._read:
            if prompt.source:
                check_prompt(model, prompt.source, 1, 'error')
        self.model, self.params, self.rows = model, params, len(prompts)
        self.remaining = max_new_tokens
        padding = bucket(self.rows, 2**30) - self.rows
        self._images = images + [None] * padding
        self._windows = [list(prompt) for prompt in prompts] + [[0]] * padding
        self._read += [ReadPrompt((0,), prefix=1, source=(0,))] * (padding if self._read else 0)
        self._settings = sampling.stack([*settings, *[SamplingParams()] * padding])
        self._stops = np.zeros(model.config.vocab_size, bool)
        self._stops[list(stop_ids)] = True
        longest = max(len(prompt) for prompt in prompts)
        self._capacity = bucket(longest + max_new_tokens - 1, model.config.context_length)

        batch = len(self._windows)
        self._done = np.arange(batch) >= self.rows
        self._generated = np.zeros(batch, np.int32)
        seen = np.zeros((batch, model.config.vocab_size), bool)
        for index, window in enumerate(self._windows):
            seen[index, window] = True
        for index, prompt in enumerate(self._read):
            seen[index, list(prompt.source)] = True
        self._state = DecodeState(
            cache=self._read_windows(),
            token=jnp.array([window[-1] for window in self._windows], jnp.int32),
            generated=jnp.array(self._generated),
            seen=jnp.array(seen),
            done=jnp.array(self._done),
        )

    @property
    def running(self) -> bool:
        """Whether any row can write more."""
        return self.remaining > 0 and not self._done.all()

    def finish(self, row: int) -> None:
        """Lets a row write no more."""
        self._done[row] = True
        self._state = self._state._replace(done=jnp.array(self._done))

    def next_token_distribution(self) -> np.ndarray:
        """Probabilities (rows, vocabulary) from which the next tokens will be drawn."""
        return np.asarray(next_token_distribution(self.model, self.params, self._state, self._settings))[: self.rows]

    def advance(self, steps: int) -> list[list[tuple[int, float]]]:
        """Writes up to `steps` tokens in each row; returns what each wrote, as (id, log-probability)."""
        steps = min(steps, self.remaining)
        self.remaining -= steps
        written = [[] for _ in range(self.rows)]
        while steps and not self._done.all():
            room = self._room()
            if room == 0:
                self._slide()
                room = self._room()
            calls = min(steps, room)
            steps -= calls
            self._state, tokens, logprobs = decode(
                self.model, self.params, self._state, self._settings, self._stops, np.int32(calls)
            )
            tokens, logprobs = np.asarray(tokens), np.asarray(logprobs)
            generated = np.array(self._state.generated)
            self._done = np.array(self._state.done)
            for row in range(self.rows):
                new = tokens[row, : generated[row] - self._generated[row]].tolist()
                self._windows[row] += new
                written[row] += zip(new, logprobs[row, : len(new)].tolist())
            self._generated = generated
        return written

    def _room(self) -> int:
        """Tokens that every row still running can read."""
        longest = max(len(window) - 1 for window, done in zip(self._windows, self._done) if not done)
        return self._capacity - longest

    def _slide(self) -> None:
        """Forgets the oldest half of each full context, and reads what is left."""
        for row, window in enumerate(self._windows):
            if len(window) - 1 >= self._capacity:
                self._windows[row] = window[-(self._capacity // 2) - 1 :]
        self._state = self._state._replace(cache=self._read_windows())

    def _read_windows(self) -> KVCache:
        if self._read:
            return read_prompts(self.model, self.params, self._read, self._windows, self._capacity)
        rows = [window[:-1] for window in self._windows]
        return read_rows(self.model, self.params, rows, self._capacity, self._images)
