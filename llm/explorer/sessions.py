"""Writing one token after the other with the decode step that `generate` runs, its cache and its time in sight."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
from llm.inference.sampling import SamplingParams
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
    model: Any
    params: Any
    state: DecodeState
    settings: SamplingParams
    tokens: list[int]
    drawn: int = 0
    stopped: str | None = None


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
        read = lambda: jax.block_until_ready(decode.read_rows(model, params, [tokens[:-1]], capacity))
        program = (model, bucket(len(tokens) - 1, capacity), capacity, tuple(sorted(params[1] or ())))
        if program not in self._compiled:
            read()
        begin = time.perf_counter()
        cache = read()
        milliseconds = 1000 * (time.perf_counter() - begin)
        seen = np.zeros((1, config.vocab_size), bool)
        seen[0, list(tokens)] = True
        state = DecodeState(
            cache=cache,
            token=jnp.array([tokens[-1]], jnp.int32),
            generated=jnp.zeros((1,), jnp.int32),
            seen=jnp.array(seen),
            done=jnp.zeros((1,), bool),
        )
        # As every later state will be placed: else the first step would be compiled apart.
        state = jax.device_put(state, cache.lengths.sharding)
        session = Session(run, model, params, state, settings, list(tokens))
        if program not in self._compiled:
            self._write(session, 0)  # compiles: what is timed later is the step alone
            self._compiled.add(program)
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

    def _step(self, session: Session) -> dict[str, Any]:
        tokenizer = self._runs[session.run].tokenizer
        settings = sampling.stack([session.settings])
        cut = decode.next_token_distribution(session.model, session.params, session.state, settings)
        cut = np.asarray(cut)[0]
        begin = time.perf_counter()
        token, logprob = self._write(session, 1)
        milliseconds = 1000 * (time.perf_counter() - begin)
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
            'model_probability': float(np.exp(logprob)),
            'kept': int(np.sum(cut > 0)),
            'milliseconds': milliseconds,
            'cache': self._cache(session),
        }

    def _write(self, session: Session, steps: int) -> tuple[int, float]:
        """Runs the loop of `generate` for so many steps; returns the last token and its log-probability."""
        stops = np.zeros(session.model.config.vocab_size, bool)
        settings = sampling.stack([session.settings])
        state, tokens, logprobs = decode.decode(
            session.model, session.params, session.state, settings, stops, np.int32(steps)
        )
        session.state = jax.block_until_ready(state)
        return int(tokens[0, 0]), float(logprobs[0, 0])

    def _params(self, run: int, step: int | None) -> Any:
        step, params = self._runs.params(run, step)
        if (run, step) not in self._prepared:
            ready = prepared.ready(params, self._runs[run].trained)
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
