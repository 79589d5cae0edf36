"""A run's model made ready to code with."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from llm import runtime
from llm.compression import codec
from llm.compression.codec import Predictor
from llm.config import ModelConfig
from llm.errors import UserError
from llm.inference import prepared
from llm.inference.reading import require_causal
from llm.model.kv_cache import stored_dtype
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer, open_workdir
from llm.training.checkpoint import load_params, params_sha256
from llm.workdir import Workdir

MOST_STREAMS = 64  # coded side by side, if nobody asks for more: beyond, a step takes longer in proportion
SHORTEST_STREAM = 512  # tokens; the first ones of a stream are dear, as they have no context
MOST_CACHE = 2**30  # bytes of keys and values
CHUNK = 2**22  # bytes that are tokenised at once


@dataclass(frozen=True)
class Compressor:
    """A model, its parameters and its tokenizer.

    Attributes:
        name: the run's.
        step: its checkpoint.
        ema: whether the parameters are the averaged ones.
        model: the model.
        params: prepared.
        params_sha256: of the parameters as they are stored.
        tokenizer: the run's.
    """

    name: str
    step: int
    ema: bool
    model: Transformer
    params: Any
    params_sha256: str
    tokenizer: Tokenizer

    @property
    def window(self) -> int:
        """Most tokens that the model sees at a time."""
        return min(self.model.config.context_length, codec.LARGEST_WINDOW)

    @functools.cached_property
    def token_sizes(self) -> Int[np.ndarray, 'vocabulary']:
        """Bytes of each token."""
        return np.array([len(self.tokenizer.token_bytes(i)) for i in range(self.model.config.vocab_size)])

    def streams(self, tokens: int) -> int:
        """How many streams a file is cut into: a power of two, with streams that are long and caches that fit."""
        config = self.model.config
        numbers = config.num_layers * config.kv_heads * config.key_size * min(self.window, tokens)
        cache = 2 * numbers * stored_dtype(config.compute_dtype).itemsize
        most = max(1, min(MOST_STREAMS, tokens // SHORTEST_STREAM, MOST_CACHE // cache))
        return 1 << most.bit_length() - 1

    def predictors(self, tokens: int, streams: int, window: int) -> list[Predictor]:
        """Fresh ones for so many tokens in so many streams."""
        length = codec.stream_length(tokens, streams)
        codable = self.token_sizes > 0
        return [Predictor(self.model, self.params, codable, n, length, window) for n in codec.parts(streams)]


def load(workdir: Workdir, step: int | None = None, ema: bool = False, compute_dtype: str | None = None) -> Compressor:
    """Opens a run.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest good one.
        ema: the averaged parameters instead of the raw ones.
        compute_dtype: what to multiply in; None is what the run was trained with.

    Raises:
        UserError: if there is no such checkpoint, it is damaged, or the run's model does not predict the next token.
    """
    config = runtime.stored_config(workdir)
    if config.objective.kind == 'reward_model':
        raise UserError(f'{workdir.path} is a reward model, which predicts no text; compress with another run')
    require_causal(config, workdir.path, 'compression')
    tokenizer = open_workdir(workdir.path)
    tokenizer.check_fits(config.model.vocab_size)
    step, params = load_params(workdir, step, ema)
    model = _decoding(config.model, compute_dtype or config.model.compute_dtype)
    ready = prepared.ready(params, model)
    return Compressor(config.name, step, ema, Transformer(model), ready, params_sha256(params), tokenizer)


def _decoding(model: ModelConfig, compute_dtype: str) -> ModelConfig:
    """With a cache the reference attends, whatever was chosen to train with."""
    return dataclasses.replace(model, compute_dtype=compute_dtype, attention_backend='reference')


def tokenize(tokenizer: Tokenizer, data: bytes) -> Int[np.ndarray, 'tokens'] | None:
    """The ids of a file; None if the tokenizer does not give it back as it is."""
    # Where chunks meet may be within a character: its bytes become tokens by themselves.
    size = len(data) if tokenizer.leading_space else CHUNK
    parts = [np.zeros(0, np.int32)]
    try:
        for at in range(0, len(data), size):
            parts.append(np.array(tokenizer.encode(data[at : at + size]), np.int32))
    except UserError:  # bytes that it cannot carry
        return None
    tokens = np.concatenate(parts)
    return tokens if tokenizer.exact or tokenizer.decode_bytes(tokens.tolist()) == data else None
