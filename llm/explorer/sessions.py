"""Writing one token after the other with the decode step that `generate` runs, its cache and its time in sight."""

import functools
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.errors import UserError
from llm.explorer import arrays
from llm.explorer import edits as edits_lib
from llm.explorer.blocks import cache_bytes_per_token
from llm.explorer.edits import Change, Patch
from llm.explorer.kept import Kept
from llm.explorer.runs import PARAMETER_BYTES, Runs
from llm.inference import decode, prepared, sampling
from llm.inference.decode import DecodeState, bucket
from llm.inference.sampling import RowSettings, SamplingParams
from llm.model.kv_cache import KVCache
from llm.model.transformer import Output, Transformer

CACHE_BYTES = 2**29  # of sessions kept
ROOM = 256  # new tokens that a cache is made for, where the context has as many left
MOST_STEPS = 64  # of one call


@dataclass(frozen=True)
class Edited:
    """A `Transformer` with changes, which come with the parameters so that they compile nothing."""

    config: ModelConfig

    def apply(self, variables: dict[str, Any], *inputs: Any, **options: Any) -> Output:
        tree, edits = variables['params']
        return Transformer(self.config).apply({'params': tree}, *inputs, edits=edits, **options)


@dataclass
class Session:
    """A text being written.

    Attributes:
        run: whose model.
        model, params: what decodes, see `Edited`.
        state: where it stands.
        settings: how the next token is drawn.
        tokens: prompt and what was drawn.
        drawn: how many were drawn.
        stopped: why no more are drawn.
    """

    run: int
    model: Edited
    params: Any
    state: DecodeState
    settings: SamplingParams
    tokens: list[int]
    drawn: int = 0
    stopped: str | None = None


@functools.partial(jax.jit, static_argnames=('model', 'capacity'))
def read_once(
    model: Edited, params: Any, tokens: Int[Array, 'batch length'], lengths: Int[Array, 'batch'], capacity: int
) -> KVCache:
    """`llm.inference.decode.prefill` of text, with the edits."""
    real = (jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]).astype(jnp.int32)
    cache = KVCache.create(model.config, tokens.shape[0], capacity)
    return model.apply({'params': params}, tokens, segment_ids=real, cache=cache, with_logits=False).cache


@functools.partial(jax.jit, static_argnames='model', donate_argnames='state')
def step_once(
    model: Edited, params: Any, state: DecodeState, settings: RowSettings
) -> tuple[DecodeState, Float[Array, 'batch vocabulary'], Float[Array, 'batch vocabulary']]:
    """One turn of the loop in `llm.inference.decode.decode`, which also shows what it draws from.

    Returns the next state, whose `token` is what was drawn; the probabilities after the sampler's cut; and the model's
    own log-probabilities.
    """
    logits, cache = decode.next_logits(model, params, state.cache, state.token, ~state.done)
    cut = sampling.next_token_distribution(logits, state.seen, settings)
    drawn = sampling.sample(logits, state.seen, settings, state.generated)
    seen = state.seen.at[jnp.arange(len(drawn)), drawn].set(True)
    state = DecodeState(cache, drawn, state.generated + 1, seen, state.done)
    return state, cut, jax.nn.log_softmax(logits, axis=-1)


class Sessions:
    """The sessions of a page. Not for several threads at once."""

    def __init__(self, runs: Runs):
        self._runs = runs
        self._sessions, self._prepared = Kept(CACHE_BYTES), Kept(PARAMETER_BYTES)
        self._compiled: set[Any] = set()

    def start(
        self, run: int, step: int | None, tokens: tuple[int, ...], changes: tuple[Change, ...], settings: SamplingParams
    ) -> dict[str, Any]:
        """Reads a prompt.

        Raises:
            UserError: if it does not fit, or a change names a position.
        """
        if any(isinstance(change, Patch) for change in changes):
            raise UserError('a patch names a position of the prompt, so nothing is written with it; remove it')
        opened = self._runs[run]
        config = opened.trained
        edits_lib.check(changes, config, len(tokens))
        model = Edited(config)
        decode.check_prompt(model, tokens, 1, 'error')
        params = (self._params(run, step), edits_lib.stacked(changes, config))
        capacity = bucket(len(tokens) + ROOM, config.context_length)
        read = np.zeros((1, bucket(len(tokens) - 1, capacity)), np.int32)
        read[0, : len(tokens) - 1] = tokens[:-1]
        lengths = np.array([len(tokens) - 1], np.int32)
        state = self._state(config, params, tokens, capacity)
        self._compile(model, params, state, read, lengths)
        begin = time.perf_counter()
        cache = jax.block_until_ready(read_once(model, params, read, lengths, capacity))
        milliseconds = 1000 * (time.perf_counter() - begin)
        state = jax.block_until_ready(state._replace(cache=jax.device_put(cache, state.token.sharding)))
        session = Session(run, model, params, state, settings, list(tokens))
        name = secrets.token_hex(8)
        self._sessions.put(name, session, self._allocated(session))
        return {
            'session': name,
            'tokens': list(session.tokens),
            'prefill_milliseconds': milliseconds,
            'cache': self._cache(session),
        }

    def next(self, name: str, count: int, change: dict[str, Any]) -> dict[str, Any]:
        """Draws up to `count` tokens.

        Args:
            name: of the session.
            count: at least 1.
            change: fields of the sampling settings that are others from here on.

        Raises:
            KeyError: if there is no such session.
            UserError: for settings out of range.
        """
        session = self._sessions[name]
        if not 1 <= count <= MOST_STEPS:
            raise UserError(f'count is {count}; give one from 1 to {MOST_STEPS}')
        session.settings = sampling_params({**vars(session.settings), **change})
        steps = []
        while len(steps) < count and session.stopped is None:
            steps.append(self._step(session))
        return {'steps': steps, 'stopped': session.stopped, 'tokens': list(session.tokens)}

    def _state(self, config: ModelConfig, params: Any, tokens: tuple[int, ...], capacity: int) -> DecodeState:
        """Before anything is read."""
        seen = np.zeros((1, config.vocab_size), bool)
        seen[0, list(tokens)] = True
        state = DecodeState(
            cache=KVCache.create(config, 1, capacity),
            token=np.array([tokens[-1]], np.int32),
            generated=np.zeros((1,), np.int32),
            seen=seen,
            done=np.zeros((1,), bool),
        )
        return jax.device_put(state, params[0]['final_norm']['scale'].sharding)

    def _compile(self, model, params, state, read, lengths) -> None:
        """Runs both programs once, so that what is timed later is the model alone; at the same time, because compiling
        a deep model takes long."""
        leaves, structure = jax.tree.flatten((params, read, state))
        program = (model, structure, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves))
        if program in self._compiled:
            return
        settings = sampling.stack([SamplingParams()])

        def step():
            after, _, _ = step_once(model, params, jax.tree.map(jnp.copy, state), settings)
            # What a step returns may lie otherwise than the first state. Waited for, or the first time would be its.
            jax.block_until_ready(step_once(model, params, after, settings))

        with ThreadPoolExecutor(2) as pool:
            stepping = pool.submit(step)
            jax.block_until_ready(read_once(model, params, read, lengths, state.cache.capacity))
            stepping.result()
        self._compiled.add(program)

    def _step(self, session: Session) -> dict[str, Any]:
        tokenizer = self._runs[session.run].tokenizer
        settings = sampling.stack([session.settings])
        begin = time.perf_counter()
        session.state, cut, log_probs = jax.block_until_ready(
            step_once(session.model, session.params, session.state, settings)
        )
        milliseconds = 1000 * (time.perf_counter() - begin)
        token, cut = int(session.state.token[0]), np.asarray(cut)[0]
        session.tokens.append(token)
        session.drawn += 1
        if token in tokenizer.stop_ids:
            session.stopped = 'end'
        elif len(session.tokens) > session.state.cache.capacity:
            session.stopped = 'length'
        return {
            'token': arrays.token(tokenizer, token),
            'index': session.drawn - 1,
            'probability': float(cut[token]),
            'model_probability': float(np.exp(log_probs[0, token])),
            'kept': int(np.sum(cut > 0)),
            'milliseconds': milliseconds,
            'cache': self._cache(session),
        }

    def _params(self, run: int, step: int | None) -> Any:
        step, params = self._runs.params(run, step)
        if (run, step) not in self._prepared:
            ready = jax.block_until_ready(prepared.ready(params, self._runs[run].trained))
            self._prepared.put((run, step), ready, sum(leaf.nbytes for leaf in jax.tree.leaves(ready)))
        return self._prepared[run, step]

    def _allocated(self, session: Session) -> int:
        return session.state.cache.keys.nbytes + session.state.cache.values.nbytes

    def _cache(self, session: Session) -> dict[str, int]:
        each = cache_bytes_per_token(self._runs[session.run])
        length = len(session.tokens) - 1  # the last token is not read yet
        return {
            'length': length,
            'capacity': session.state.cache.capacity,
            'bytes': length * each,
            'allocated': self._allocated(session),
            'bytes_per_token': each,
        }


def sampling_params(values: dict[str, Any]) -> SamplingParams:
    """Raises UserError, naming the field and its range, for what is out of it."""
    try:
        return SamplingParams(**values)
    except ValueError as error:
        raise UserError(str(error)) from error
