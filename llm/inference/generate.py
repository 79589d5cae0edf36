"""Text in, text out."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from llm.data.images import ImagePrompt
from llm.errors import UserError
from llm.inference import beam_search, prepared
from llm.inference.decode import Decoder, PastContext
from llm.inference.quantization import Bits
from llm.inference.reading import Reader, ReadPrompt, reader_of, require_causal
from llm.inference.sampling import SamplingParams
from llm.inference.speculative import Draft, SpeculativeDecoder, check_draft
from llm.model.transformer import Transformer
from llm.tokenizer import Tokenizer, open_workdir
from llm.workdir import Workdir

Prompt = str | bytes | Sequence[int] | ImagePrompt | ReadPrompt
FinishReason = Literal['stop_token', 'stop_string', 'length']

# Tokens written between looks at the text. A look costs a millisecond or so; tokens behind a stop string are wasted.
STREAM_TOKENS = 4
STOP_STRING_TOKENS = 16

UNCHANGED = SamplingParams()  # draws from the model's own distribution


@dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt.

    Attributes:
        text: without special tokens, and up to where a stop string begins.
        ids: the tokens, up to and with the one that stopped it.
        logprobs: log-probability in nats that the model, unfiltered, at temperature 1, gave each of them.
        finish_reason: a stop token, a stop string, or the number of tokens asked for.
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


@dataclass
class Transcript:
    """The text of one row, as its tokens come in. Which tokens come together makes no difference."""

    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    text: str = ''
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __post_init__(self):
        self._utf8 = codecs.getincrementaldecoder('utf-8')('replace')  # keeps the bytes of unfinished characters

    def add(self, token: int, logprob: float) -> None:
        """Takes the next token; once finished, takes no more."""
        if self.finish_reason is not None:
            return
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token in self.stop_ids:
            self.finish('stop_token')
        else:
            self._append(self._utf8.decode(self.tokenizer.token_bytes(token)))

    def finish(self, reason: FinishReason) -> None:
        """Ends the text, unless it has ended; a character that stayed unfinished is shown as U+FFFD."""
        if self.finish_reason is None:
            self._append(self._utf8.decode(b'', final=True))
            self.finish_reason = self.finish_reason or reason

    def _append(self, new: str) -> None:
        start = max(0, len(self.text) - max(map(len, self.stop), default=0))
        self.text += new
        places = [at for at in (self.text.find(stop, start) for stop in self.stop) if at >= 0]
        if places:
            self.text = self.text[: min(places)]
            self.finish_reason = 'stop_string'

    @property
    def settled(self) -> str:
        """The text that later tokens cannot take back: without an end that may be the beginning of a stop string."""
        if self.finish_reason is not None:
            return self.text
        held = (n for stop in self.stop for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return self.text[: len(self.text) - max(held, default=0)]

    def completion(self) -> Completion:
        return Completion(self.text, self.ids, self.logprobs, self.finish_reason)


class Generator:
    """A model, its parameters and its tokenizer, ready to write.

    A prompt is text (UTF-8 where it is bytes), which gets what the tokenizer puts before one (ours a
    beginning-of-sequence token), or ids, which are taken as they are (a conversation with its role tokens, say), or
    ids and images (see `llm.data.images.encode_prompt`).
    Writing ends at the tokenizer's end-of-sequence tokens or at one of `stop_ids`.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        tokenizer: Tokenizer,
        stop_ids: Sequence[int] = (),
        draft: Draft | None = None,
        reader: Reader | None = None,
    ):
        """Takes `model`, its `params`, the `tokenizer` it was trained with, and further tokens that end a text.

        A `reader` makes the prompts of a model that does not read from left to right.

        With a `draft`, single prompts are continued by speculative decoding; batches go on as without.

        Raises:
            UserError: if the tokenizer has tokens that the model does not know.
        """
        tokenizer.check_fits(model.config.vocab_size)
        self.model, self.params, self.tokenizer = model, prepared.ready(params, model.config), tokenizer
        self.reader = reader
        stop_ids = (*stop_ids, *(() if reader is None else reader.blanks))
        known = (i for i in (*tokenizer.stop_ids, *stop_ids) if i < model.config.vocab_size)
        self.stop_ids = tuple(dict.fromkeys(known))
        self.draft = draft
        if draft is not None:
            check_draft(model, draft)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        past_context: PastContext = 'error',
    ) -> list[Completion]:
        """Continues a batch of prompts, each as if it were alone.

        Args:
            prompts: of any lengths.
            sampling: how to draw, for all prompts (the seed too) or for each.
            max_new_tokens: most tokens to write, per prompt.
            stop: strings that end a text.
            past_context: 'error' refuses prompts that, continued, do not fit the model's context; 'slide' forgets the
                oldest half of it whenever it is full.

        Raises:
            UserError: if a prompt does not fit.
        """
        if not prompts:
            return []
        settings = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else sampling
        decoder, transcripts = self._start(prompts, settings, max_new_tokens, stop, past_context)
        while decoder.running:
            self._advance(decoder, transcripts, STOP_STRING_TOKENS if stop else max_new_tokens)
        return [transcript.completion() for transcript in transcripts]

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        past_context: PastContext = 'error',
    ) -> Iterator[str]:
        """Like `generate`, piece by piece: joined, the pieces are its text.

        No piece ends within a character or shows part of a stop string.
        """
        decoder, transcripts = self._start([prompt], [sampling], max_new_tokens, stop, past_context)

        def pieces():
            shown = 0
            while decoder.running:
                self._advance(decoder, transcripts, STREAM_TOKENS)
                settled = transcripts[0].settled
                if len(settled) > shown:
                    yield settled[shown:]
                    shown = len(settled)

        return pieces()

    def next_token_table(
        self, prompt: Prompt, n: int, sampling: SamplingParams = UNCHANGED
    ) -> list[tuple[str, int, float]]:
        """The `n` most probable next tokens as (piece, id, probability), from what a sampler with `sampling` draws."""
        decoder = Decoder(self.model, self.params, [self.encode(prompt)], [sampling], max_new_tokens=1)
        probabilities = decoder.next_token_distribution()[0]
        best = np.argsort(-probabilities, kind='stable')[:n]
        return [(self.tokenizer.piece(int(i)), int(i), float(probabilities[i])) for i in best if probabilities[i] > 0]

    def beam(
        self, prompt: Prompt, *, beam_size: int, max_new_tokens: int, length_penalty: float = 1.0
    ) -> list[Completion]:
        """The best continuations that beam search finds, best first; see `llm.inference.beam_search`.

        Raises:
            UserError: if the prompt does not fit, or has images.
        """
        _refuse_images(prompt, 'beam search')
        found = beam_search.beam_search(
            self.model,
            self.params,
            self.encode(prompt),
            beam_size=beam_size,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
            stop_ids=self.stop_ids,
        )
        completions = []
        for hypothesis in found:
            transcript = Transcript(self.tokenizer, self.stop_ids)
            for token, logprob in zip(hypothesis.ids, hypothesis.logprobs):
                transcript.add(token, logprob)
            transcript.finish('length')
            completions.append(transcript.completion())
        return completions

    def encode(self, prompt: Prompt) -> list[int] | ImagePrompt | ReadPrompt:
        """The ids of a prompt, or how they are read where not from left to right; with images, the prompt as it is."""
        if isinstance(prompt, ImagePrompt | ReadPrompt):
            return prompt
        ids = self.tokenizer.encode_text(prompt) if isinstance(prompt, str | bytes) else list(prompt)
        return ids if self.reader is None else self.reader.prompt(ids)

    def _start(
        self, prompts, settings, max_new_tokens, stop, past_context
    ) -> tuple[Decoder | SpeculativeDecoder, list[Transcript]]:
        if '' in stop:
            raise UserError('a stop string is empty; leave it out, or give it at least one character')
        rows = [self.encode(prompt) for prompt in prompts]
        common = {'max_new_tokens': max_new_tokens, 'stop_ids': self.stop_ids}
        if self.draft is not None and len(rows) == 1:
            if past_context != 'error':
                raise UserError('a draft model does not combine with past_context slide; drop the one or the other')
            _refuse_images(prompts[0], 'a draft model')
            decoder = SpeculativeDecoder(self.model, self.params, self.draft, rows[0], settings[0], **common)
        else:
            decoder = Decoder(self.model, self.params, rows, settings, past_context=past_context, **common)
        return decoder, [Transcript(self.tokenizer, self.stop_ids, tuple(stop)) for _ in prompts]

    def _advance(self, decoder: Decoder | SpeculativeDecoder, transcripts: list[Transcript], steps: int) -> None:
        for row, written in enumerate(decoder.advance(steps)):
            transcript = transcripts[row]
            for token, logprob in written:
                transcript.add(token, logprob)
            if decoder.remaining == 0:
                transcript.finish('length')
            if transcript.finish_reason == 'stop_string':
                decoder.finish(row)


def _refuse_images(prompt: Prompt, what: str) -> None:
    if isinstance(prompt, ImagePrompt):
        raise UserError(f'{what} reads no images; drop the one or the other')


def load_generator(
    workdir: Workdir,
    step: int | None = None,
    ema: bool = False,
    chat: bool = False,
    quantize: Bits | None = None,
    draft: Workdir | None = None,
    draft_tokens: int = 4,
) -> Generator:
    """The `Generator` of a run.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest good one.
        ema: with the averaged parameters instead of the raw ones.
        chat: a text is an answer in a conversation, so it ends where the model opens another turn, too.
        quantize: to how many bits the weights are rounded, see `llm.inference.quantization`.
        draft: run of a small model, of the same tokenizer, that drafts what this one then reads; its newest checkpoint.
        draft_tokens: drafted at a time.

    Raises:
        UserError: if there is no such checkpoint, or it is damaged, or the draft model does not go with this one.
    """
    from llm import chat as conversations
    from llm import runtime
    from llm.training import checkpoint

    config = runtime.usable_config(workdir)
    tokenizer = open_workdir(workdir.path)
    _, params = checkpoint.load_params(workdir, step, ema)
    if chat:
        require_causal(config, workdir.path, 'a conversation')
    if draft is not None:
        require_causal(config, workdir.path, 'speculative decoding')
        require_causal(runtime.stored_config(draft), draft.path, 'drafting')
    reader = reader_of(config, tokenizer)
    stop_ids = conversations.stop_ids(tokenizer) if chat else ()
    drafter = None
    if draft is not None:
        small = load_generator(draft)
        if small.tokenizer.digest != tokenizer.digest:
            raise UserError(
                f'{draft.path} has another tokenizer than {workdir.path}; draft with a model that shares it'
            )
        drafter = Draft(small.model, small.params, draft_tokens)
    params = prepared.ready(params, config.model, quantize)
    return Generator(Transformer(config.model), params, tokenizer, stop_ids, drafter, reader)
