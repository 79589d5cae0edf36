"""A conversation with a model, turn by turn."""

import dataclasses
from collections.abc import Iterator

from llm import chat
from llm.chat import Message
from llm.errors import UserError
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams


class Conversation:
    """What was said so far, and how the model answers.

    The model reads the system message and as many of the latest exchanges as leave room for an answer; what it no
    longer reads is still in `messages`. Each answer has a seed of its own, so one that is drawn again is another one.

    Attributes:
        sampling: how answers are drawn; may be replaced at any time.
        system: the system message, '' for none; may be replaced at any time.
        messages: the turns of user and assistant.
        forgotten: messages, the oldest, that were left out before the latest answer.
    """

    def __init__(
        self, generator: Generator, sampling: SamplingParams, *, max_new_tokens: int | None = None, system: str = ''
    ):
        """
        Args:
            generator: made with `llm.chat.stop_ids`.
            sampling: how answers are drawn; its seed is the first answer's.
            max_new_tokens: most tokens of an answer; None is half of the context.
            system: what the model is told first.

        Raises:
            UserError: if such an answer leaves no room for a question.
        """
        context = generator.model.config.context_length
        if max_new_tokens is None:
            max_new_tokens = context // 2
        if not 1 <= max_new_tokens <= context // 2:
            raise UserError(
                f'an answer of {max_new_tokens} tokens leaves no room in a context of {context}; '
                f'ask for 1 to {context // 2}'
            )
        self.sampling, self.system = sampling, system
        self.messages: list[Message] = []
        self.forgotten = 0
        self._generator, self._max_new_tokens = generator, max_new_tokens
        self._answers = 0  # drawn so far

    @property
    def room(self) -> int:
        """Most tokens that the model reads before an answer."""
        return self._generator.model.config.context_length - self._max_new_tokens + 1

    def ask(self, text: str) -> Iterator[str]:
        """The user says something. Yields the answer piece by piece; see `_answer`.

        Raises:
            UserError: if it does not fit the model's context; then it was not said.
        """
        return self._answer([*self.messages, {'role': 'user', 'content': text}])

    def regenerate(self) -> Iterator[str]:
        """Takes the last answer back and draws another.

        Raises:
            UserError: if there is none yet.
        """
        if not self.messages:
            raise UserError('there is no answer yet to draw again')
        return self._answer(self.messages[:-1])

    def reset(self) -> None:
        """Forgets what was said; the system message stays."""
        self.messages, self.forgotten = [], 0

    def _answer(self, messages: list[Message]) -> Iterator[str]:
        """Prepares at once, answers as it is read from.

        An answer that nobody reads to its end stays as far as it was read: what the user saw is what was said.
        """
        generator = self._generator
        system = [{'role': 'system', 'content': self.system}] if self.system else []
        heard = chat.fit(generator.tokenizer, [*system, *messages], self.room)
        sampling = dataclasses.replace(self.sampling, seed=(self.sampling.seed + self._answers) % 2**32)
        pieces = generator.stream(
            chat.encode_prompt(generator.tokenizer, heard), sampling, max_new_tokens=self._max_new_tokens
        )
        self.forgotten = len(system) + len(messages) - len(heard)
        self._answers += 1
        answer = {'role': 'assistant', 'content': ''}
        self.messages = [*messages, answer]

        def read():
            for piece in chat.answer(generator.tokenizer, pieces):
                answer['content'] += piece
                yield piece

        return read()
