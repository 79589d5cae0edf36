"""How a run's model takes a prompt: what it reads at once, and what it then writes behind.

A causal model reads from left to right, and its prompt is its row. Of a run with another objective the prompt is a
prefix whose tokens see each other, or what an encoder reads; and a run that learned to fill blanks gets a blank behind
the prompt, in which it writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llm.config import Config, Masked, SpanCorruption
from llm.errors import UserError
from llm.tokenizer import Tokenizer

HOW = {
    'bidirectional': 'sees a whole text, with what comes after each token, and writes none',
    'prefix': 'reads its prompt as a prefix',
    'encoder_decoder': 'has an encoder that reads its prompt',
}


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt for a model that does not read from left to right.

    Attributes:
        ids: the row that is continued, at least one id.
        prefix: how many of these see each other.
        source: what the encoder reads; empty without one.
    """

    ids: tuple[int, ...]
    prefix: int = 0
    source: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reader:
    """Makes the prompts of a run whose model is a prefix LM or has an encoder.

    Attributes:
        encoder: whether an encoder reads.
        start: what precedes everything that is written.
        blanks: of a run that learned to fill them, the tokens that stand for blanks, else none. Each also ends what
            stood in the one before it.
    """

    encoder: bool
    start: int
    blanks: tuple[int, ...] = ()

    def prompt(self, ids: Sequence[int]) -> ReadPrompt:
        """What is read to continue a text."""
        if self.blanks:
            return self.behind([*ids, self.blanks[0]], self.blanks[:1])
        return self.behind(ids, ()) if self.encoder else ReadPrompt(tuple(ids), prefix=len(ids))

    def behind(self, text: Sequence[int], written: Sequence[int]) -> ReadPrompt:
        """What is read of a text, and of what has been written about it; without an encoder, of one with blanks."""
        if self.encoder:
            return ReadPrompt((self.start, *written), source=tuple(text))
        return ReadPrompt((*text, self.start, *written), prefix=len(text))


def reader_of(config: Config, tokenizer: Tokenizer) -> Reader | None:
    """How the model of a run takes prompts; None if from left to right.

    Raises:
        UserError: if it writes nothing.
    """
    if config.reading == 'causal':
        return None
    if isinstance(config.objective, Masked):
        raise UserError(
            'a model of objective masked sees a whole text and continues none; fill blanks in one with `python -m llm '
            'fill`, or generate with a run of another objective'
        )
    blanks = ()
    if isinstance(config.objective, SpanCorruption):
        from llm.data.corruption import blank_ids

        blanks = blank_ids(tokenizer)
    return Reader(config.reading == 'encoder_decoder', tokenizer.start_id, blanks)


def require_causal(config: Config, where: object, what: str) -> None:
    """Refuses what only a model can do that reads from left to right.

    Args:
        config: the run's.
        where: its workdir.
        what: that needs such a model, in words that begin a sentence's second half.

    Raises:
        UserError: if it is none.
    """
    if config.reading != 'causal':
        raise UserError(
            f'{where} learned objective {config.objective.kind}: its model {HOW[config.reading]}, and {what} takes one '
            'that reads from left to right; use a run of another objective'
        )
