"""The same parameters in every precision: bits per byte, bytes, and the time of a token."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.quantization.plan import PRECISIONS
from llm.analysis import statistics
from llm.benchmark import measure as timing
from llm.config import ModelConfig
from llm.data.corpora import open_corpus
from llm.evaluation import corpus, subject
from llm.inference import decode, prepared, sampling
from llm.model import Transformer
from llm.training.train_state import initial_model
from llm.workdir import Workdir

PROMPT, NEW_TOKENS = 128, 32  # tokens that are read at once, and then written one by one
DOCUMENTS = 12  # held-out ones that are read; their differences are paired, so that few are enough


class Cost(NamedTuple):
    """What rounding one model's weights costs.

    Attributes:
        bits_per_byte: on the first `DOCUMENTS` held-out documents of the run's first corpus.
        difference: to float32, in bits per byte.
        low, high: of the difference, over documents (a ratio of sums; Cochran 1977). None for float32.
    """

    bits_per_byte: float
    difference: float
    low: float | None
    high: float | None


def in_precision(model: ModelConfig, params: Any, precision: str) -> tuple[ModelConfig, Any]:
    """A model's config and its parameters, ready for reading in a precision.

    With integer weights, what else is computed is computed in the model's own `compute_dtype`.
    """
    if precision in ('int8', 'int4'):
        return model, prepared.ready(params, model, precision)
    model = dataclasses.replace(model, compute_dtype=precision)
    return model, prepared.ready(params, model)


def costs(workdir: Workdir) -> dict[str, Cost]:
    """What each precision costs a trained model; documents are paired."""
    loaded = subject.load(workdir)
    text = corpus.Text(open_corpus(loaded.config.data.corpora[0], loaded.config.data), held_out=True, limit=DOCUMENTS)
    found = {}
    for precision in PRECISIONS:
        model, params = in_precision(loaded.config.model, loaded.params, precision)
        config = dataclasses.replace(loaded.config, model=model)
        rounded = dataclasses.replace(loaded, config=config, params=params)
        silent = lambda tokens: None
        samples = corpus.measure('text', text, rounded, stride=None, bins=15, progress=silent).samples
        bits = np.array([sample['nats'] for sample in samples]) / math.log(2)
        size = np.array([sample['bytes'] for sample in samples])
        if not found:
            exact = bits
        difference = (bits - exact).sum() / size.sum()
        error = statistics.ratio_error(bits - exact, size) if found else None
        half = None if error is None else statistics.normal_quantile() * error
        ends = (None, None) if half is None else (difference - half, difference + half)
        found[precision] = Cost(float(bits.sum() / size.sum()), float(difference), *ends)
    return found


def sizes(model: ModelConfig, params: Any) -> dict[str, int]:
    """Bytes of the parameters in each precision."""
    return {
        precision: sum(leaf.nbytes for leaf in jax.tree.leaves(in_precision(model, params, precision)[1]))
        for precision in PRECISIONS
    }


def random_params(model: ModelConfig) -> Any:
    """Of a model that has learned nothing."""
    return jax.jit(lambda: initial_model(model, 0))()


def times(model: ModelConfig, params: Any, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of a token written (`token`) and of a prompt read (`prompt`), one row, several times in each precision.

    Precisions take turns, so that whatever else the machine does falls on all of them.
    """
    ways = {precision: _programs(*in_precision(model, params, precision)) for precision in PRECISIONS}
    found = {precision: {'token': [], 'prompt': []} for precision in PRECISIONS}
    for repeat in tqdm(range(repeats + 1), f'timing width {model.width}', disable=None, leave=False):
        for precision, (read, write) in ways.items():
            tokens = jax.random.randint(jax.random.key(repeat), (1, _prompt(model)), 0, model.vocab_size, jnp.int32)
            prompt, cache = _timed(read, tokens[:, :-1])
            state = _state(model, cache, tokens)
            written, outputs = _timed(write, state)
            timing.check_alive(outputs)
            if repeat:  # the first compiles
                found[precision]['prompt'].append(prompt)
                found[precision]['token'].append(written / NEW_TOKENS)
    return found


def _prompt(model: ModelConfig) -> int:
    return min(PROMPT, model.context_length - NEW_TOKENS)


def _programs(model: ModelConfig, params: Any) -> tuple[Callable, Callable]:
    """What reads a prompt into a cache, and what goes on from there for `NEW_TOKENS` tokens."""
    transformer = Transformer(model)
    settings, stops = sampling.stack([sampling.SamplingParams(seed=0)]), np.zeros(model.vocab_size, bool)
    capacity = decode.bucket(_prompt(model) + NEW_TOKENS - 1, model.context_length)

    def read(tokens):
        lengths = jnp.full((1,), tokens.shape[1], jnp.int32)
        return decode.prefill(transformer, params, tokens, lengths, capacity)

    def write(state):
        return decode.decode(transformer, params, state, settings, stops, np.int32(NEW_TOKENS))

    return read, write


def _state(model, cache, tokens):
    return decode.DecodeState(
        cache=cache,
        token=tokens[:, -1],
        generated=jnp.zeros((1,), jnp.int32),
        seen=jnp.zeros((1, model.vocab_size), bool),
        done=jnp.zeros((1,), bool),
    )


def _timed(call: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    argument = jax.block_until_ready(argument)
    start = time.perf_counter()
    outputs = jax.block_until_ready(call(argument))
    return time.perf_counter() - start, outputs
