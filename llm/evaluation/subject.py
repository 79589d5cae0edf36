"""The model that is evaluated, with all that tasks ask it through."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm import chat, runtime
from llm.config import Config, ParallelConfig
from llm.errors import UserError
from llm.inference.generate import Generator
from llm.inference.reading import require_causal
from llm.inference.scoring import TOKENS_AT_ONCE, Pair, Scorer
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer, open_workdir
from llm.training.checkpoint import load_params, params_sha256
from llm.workdir import Workdir

GENERATED_ROWS = 32  # prompts that are continued together


@dataclass(frozen=True)
class Subject:
    """A checkpoint of a run.

    Attributes:
        config: as it runs here.
        step: updates made.
        params: the parameters, on this process's first device.
        tokenizer: the run's.
        batch_size: rows of a whole context that are read together; None is what fits `TOKENS_AT_ONCE`.
    """

    config: Config
    step: int
    params: Any
    tokenizer: Tokenizer
    batch_size: int | None = None

    @functools.cached_property
    def model(self) -> Transformer:
        return Transformer(self.config.model)

    @functools.cached_property
    def params_sha256(self) -> str:
        return params_sha256(self.params)

    @functools.cached_property
    def scorer(self) -> Scorer:
        tokens = TOKENS_AT_ONCE if self.batch_size is None else self.batch_size * self.config.model.context_length
        return Scorer(self.model, self.params, tokens)

    @functools.cached_property
    def generator(self) -> Generator:
        """Continues texts."""
        return Generator(self.model, self.params, self.tokenizer)

    @functools.cached_property
    def assistant(self) -> Generator:
        """Continues conversations."""
        return Generator(self.model, self.generator.params, self.tokenizer, chat.stop_ids(self.tokenizer))

    @property
    def generated_rows(self) -> int:
        """Prompts that are continued together."""
        return self.batch_size or GENERATED_ROWS

    def text_pair(self, context: str, continuation: str, encode: Callable[[str], list[int]] | None = None) -> Pair:
        """A text and what follows it, as ids.

        Both are tokenised as one text, and the continuation is what comes behind as many ids as the context alone has;
        spaces that end the context count as the continuation's, as tokenizers have them at the start of words. So does
        lm-evaluation-harness. Without a context, the text follows what starts one.

        Args:
            context: may be empty.
            continuation: may not.
            encode: the ids of a text that nothing precedes; None is `chat.encode_text`.
        """
        encode = encode or functools.partial(chat.encode_text, self.tokenizer)
        before = context.rstrip()
        continuation = context[len(before) :] + continuation
        if not before:
            return Pair([self.tokenizer.start_id], self.tokenizer.encode(continuation))
        start, whole = encode(before), encode(before + continuation)
        if len(whole) <= len(start):  # the seam lies within a token
            start = whole[: chat.common_prefix(start, whole[:-1])]
        return Pair(whole[: len(start)], whole[len(start) :])

    def chat_pair(self, messages: list[chat.Message], answer: str) -> Pair:
        """A conversation that ends with the user's turn, and the assistant's words, as ids."""
        ids, start, _ = chat.encode_exchange(self.tokenizer, messages, answer)
        return Pair(ids[:start], ids[start : len(ids) - (ids[-1] in chat.end_ids(self.tokenizer))])


def load(workdir: Workdir, step: int | None = None, ema: bool = False, batch_size: int | None = None) -> Subject:
    """Opens a checkpoint.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest good one.
        ema: the averaged parameters instead of the raw ones.
        batch_size: see `Subject`.

    Raises:
        UserError: if there is no such checkpoint, it is damaged, or the run trained what gives no probabilities.
    """
    config = dataclasses.replace(runtime.usable_config(workdir), parallel=ParallelConfig())
    if config.objective.kind == 'reward_model':
        raise UserError(f'{workdir.path} is a reward model, which gives texts no probabilities; evaluate another run')
    require_causal(config, workdir.path, 'an evaluation on tasks')
    if batch_size is not None and batch_size < 1:
        raise UserError(f'--batch-size is {batch_size}; it must be at least 1')
    tokenizer = open_workdir(workdir.path)
    step, params = load_params(workdir, step, ema)
    return Subject(config, step, params, tokenizer, batch_size)
