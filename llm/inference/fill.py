"""Fill in the blanks of a text: what stood there, and how probable the model finds it.

A masked model has a mask token in the place of each token of a blank, and its length is given. Its probability of
several tokens is that of the first, the others masked, times that of the second, the first filled in, and so on; of
one token it is simply the softmax. A model of span corruption writes what stood in a blank behind the blank's mark, of
any length up to the one given, and its probability is that of the tokens and of what ends them: the next mark, or the
end.

The candidates are the best that a beam search of as many beams finds. Each blank is filled by itself while the others
are blanks, but what is written of a later blank follows the best that was found for those before it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import Config, Masked, SpanCorruption
from llm.data.corruption import blank_ids
from llm.errors import UserError
from llm.inference import beam_search, prepared
from llm.inference.decode import bucket
from llm.inference.reading import Reader, reader_of
from llm.model.transformer import Transformer
from llm.objectives.next_token import model_inputs
from llm.tokenizer import Tokenizer, open_workdir
from llm.workdir import Workdir


@dataclass(frozen=True)
class Candidate:
    """Something that may stand in a blank.

    Attributes:
        text: as it is shown.
        ids: its tokens.
        probability: see the module.
    """

    text: str
    ids: tuple[int, ...]
    probability: float


class Filler:
    """A model that fills blanks, its parameters and its tokenizer."""

    def __init__(self, config: Config, params: Any, tokenizer: Tokenizer):
        """
        Args:
            config: the run's; its objective is masked or span_corruption.
            params: the model's.
            tokenizer: the run's.

        Raises:
            UserError: for another objective, or a tokenizer without a token that stands for a blank.
        """
        if not isinstance(config.objective, Masked | SpanCorruption):
            raise UserError(
                f'a run of objective {config.objective.kind} has learned to go on with a text, not to fill blanks in '
                'it; use `python -m llm generate`, or a run of objective masked or span_corruption'
            )
        self._config, self._tokenizer = config, tokenizer
        self._model = Transformer(config.model)
        self._params = prepared.ready(params, config.model)
        self._blanks = blank_ids(tokenizer)
        self._reader: Reader | None = None if isinstance(config.objective, Masked) else reader_of(config, tokenizer)

    def fill(self, pieces: Sequence[str], *, candidates: int = 10, tokens: int | None = None) -> list[list[Candidate]]:
        """The candidates of each blank, most probable first.

        Args:
            pieces: the text between the blanks, at least two; the first and the last may be empty.
            candidates: how many of each, at least 1.
            tokens: of a masked model, the length of every blank (None is 1); else the longest that may be written
                (None is 16).

        Raises:
            UserError: if there is no blank, the text does not fit, or a number is out of range.
        """
        if len(pieces) < 2:
            raise UserError('the text has no blank to fill; put ____ where something is missing')
        for name, value in (('candidates', candidates), ('tokens', 1 if tokens is None else tokens)):
            if value < 1:
                raise UserError(f'{name} is {value}; ask for at least 1')
        ids = [self._tokenizer.encode(piece) for piece in pieces]
        ids[0] = [*self._tokenizer.prefix_ids, *ids[0]]
        if self._reader is None:
            return self._masked(ids, candidates, tokens or 1)
        return self._written(ids, candidates, tokens or 16)

    # ------------------------------------------------------------------------------------------------------- masked

    def _masked(self, ids: list[list[int]], candidates: int, tokens: int) -> list[list[Candidate]]:
        blank = [self._blanks[0]] * tokens
        row, places = list(ids[0]), []
        for piece in ids[1:]:
            places.append(len(row))
            row += [*blank, *piece]
        self._check(row)
        found = []
        for place in places:
            beams = [((), 0.0)]
            for at in range(tokens):
                rows = [[*row[:place], *written, *row[place + at :]] for written, _ in beams]
                logprobs = self._logprobs(rows, place + at)
                grown = [
                    ((*written, int(token)), score + float(logprobs[i, token]))
                    for i, (written, score) in enumerate(beams)
                    for token in np.argsort(-logprobs[i], kind='stable')[:candidates]
                    if np.isfinite(logprobs[i, token])
                ]
                beams = sorted(grown, key=lambda beam: -beam[1])[:candidates]
            found.append([self._candidate(written, score) for written, score in beams])
        return found

    def _logprobs(self, rows: list[list[int]], place: int) -> np.ndarray:
        """Log-probabilities (rows, vocabulary) of what stands at a place; special and unknown tokens stand nowhere."""
        length = bucket(len(rows[0]), self._config.model.context_length)
        tokens = np.zeros((bucket(len(rows), 2**30), length), np.int32)
        tokens[: len(rows), : len(rows[0])] = rows
        real = np.zeros(tokens.shape, np.int32)
        real[:, : len(rows[0])] = 1
        found = np.array(_read(self._model, self._config.objective, self._params, tokens, real, np.int32(place)))
        found[:, [i for i in self._tokenizer.special if i < found.shape[1]]] = -np.inf
        found[:, self._tokenizer.vocab_size :] = -np.inf
        return found[: len(rows)]

    # ------------------------------------------------------------------------------------------------------ written

    def _written(self, ids: list[list[int]], candidates: int, tokens: int) -> list[list[Candidate]]:
        marks = [self._blanks[number % len(self._blanks)] for number in range(len(ids) - 1)]
        text = list(ids[0])
        for mark, piece in zip(marks, ids[1:], strict=True):
            text += [mark, *piece]
        self._check(text)
        stops = (*self._blanks, self._tokenizer.end_id)
        found, written = [], []
        for mark in marks:
            written.append(mark)
            prompt = self._reader.behind(text, written)
            room = self._config.model.context_length - len(prompt.ids)
            if tokens > room:
                raise UserError(
                    f"blank {len(found) + 1} may have {tokens} tokens, and the model's context has room for "
                    f'{max(room, 0)} there; allow fewer tokens a blank, or shorten the text'
                )
            beams = beam_search.beam_search(
                self._model,
                self._params,
                prompt,
                beam_size=max(candidates, 2),
                max_new_tokens=tokens + 1,
                length_penalty=0.0,
                stop_ids=stops,
            )
            beams = [beam for beam in beams if beam.ids[-1] in stops][:candidates] or beams[:1]
            found.append([self._candidate([i for i in b.ids if i not in stops], sum(b.logprobs)) for b in beams])
            written += found[-1][0].ids
        return found

    def _candidate(self, ids: Sequence[int], logprob: float) -> Candidate:
        return Candidate(self._tokenizer.decode(ids, continued=True), tuple(ids), float(np.exp(logprob)))

    def _check(self, row: Sequence[int]) -> None:
        context = self._config.model.context_length
        if len(row) > context:
            raise UserError(
                f"the text with its blanks has {len(row)} tokens and the model's context {context}; shorten it"
            )


@functools.partial(jax.jit, static_argnames=('model', 'objective'))
def _read(
    model: Transformer,
    objective: Masked,
    params: Any,
    tokens: Int[Array, 'rows length'],
    real: Int[Array, 'rows length'],
    place: Int[Array, ''],
) -> Float[Array, 'rows vocabulary']:
    """What a masked model says of one place in each row."""
    inputs = model_inputs(objective, {'inputs': tokens, 'segment_ids': real})
    hidden = model.apply({'params': params}, **inputs, with_logits=False).hidden
    logits = model.apply({'params': params}, hidden[:, place], method='unembed')
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def load_filler(workdir: Workdir, step: int | None = None, ema: bool = False) -> Filler:
    """The `Filler` of a run.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest good one.
        ema: with the averaged parameters instead of the raw ones.

    Raises:
        UserError: if there is no such checkpoint, it is damaged, or the run learned something else.
    """
    from llm import runtime
    from llm.training import checkpoint

    config, tokenizer = runtime.usable_config(workdir), open_workdir(workdir.path)
    _, params = checkpoint.load_params(workdir, step, ema)
    return Filler(config, params, tokenizer)
