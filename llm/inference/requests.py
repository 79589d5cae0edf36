"""What somebody asks an engine for, and how the answer reaches them, from one thread to another."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llm.errors import MachineError, UserError
from llm.inference.decode import check_prompt
from llm.inference.generate import Completion, Generator, Prompt, Transcript
from llm.inference.sampling import SamplingParams
from llm.inference.slots import MOST_TOP

FinishReason = Literal['stop_token', 'stop_string', 'length', 'cancelled', 'deadline', 'error']


class QueueFull(MachineError):
    """As many requests wait as the engine keeps. Nothing of this one was kept: send it again later."""


class EngineStopped(MachineError):
    """The engine takes no more requests."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue, and how."""

    prompt: Prompt  # ids, taken as they are, or text, which gets what the tokenizer puts before one
    sampling: SamplingParams  # how tokens are drawn, with a seed of its own
    max_new_tokens: int  # most tokens to write
    stop: tuple[str, ...] = ()  # strings that end the text
    top_logprobs: int = 0  # most probable tokens to report at each place, 0 to 20
    timeout: float | None = None  # seconds from now until it is given up, waiting included; None is never


@dataclass(frozen=True)
class Event:
    """What was written since the last event. Only the last one of a request may have no ids.

    Attributes:
        text: that nothing later can take back: no half of a character, no beginning of a stop string. Joined, the
            pieces are the text.
        ids: the tokens, the one that stopped it included.
        logprobs: of each, in nats: the model's, unfiltered, at temperature 1.
        top: for each, the most probable tokens at its place as (id, log-probability), the most probable first.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class Statistics:
    """An engine's counts since it was made, and where it stands.

    Attributes:
        queued: requests that wait for a slot.
        running: requests that have one.
        accepted: requests taken, in all.
        refused: because the queue was full.
        completed: ended by a stop token, a stop string or their length.
        cancelled, expired, failed: ended otherwise.
        prompt_tokens: read.
        generated_tokens: written.
        prefill_seconds, decode_seconds: spent on reading prompts and on writing.
        decode_steps: of the whole batch; tokens per step are how full it was.
    """

    queued: int = 0
    running: int = 0
    accepted: int = 0
    refused: int = 0
    completed: int = 0
    cancelled: int = 0
    expired: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_steps: int = 0


class Handle:
    """A request on its way. Any thread may read it or cancel it; the engine's thread writes.

    Events go to one reader: who iterates, or who subscribed.

    Attributes:
        prompt: the ids that are continued.
        finish_reason: None while it runs.
        error: what went wrong, where `finish_reason` is 'error'.
    """

    def __init__(self, request: Request, prompt: Sequence[int], generator: Generator, wake: Callable[[], None]):
        """Takes a request and its checked prompt; `wake` makes the engine look at its requests."""
        self.request, self.prompt = request, tuple(prompt)
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.cancelled = False
        self.deadline = None if request.timeout is None else time.monotonic() + request.timeout
        self._transcript = Transcript(generator.tokenizer, generator.stop_ids, tuple(request.stop))
        self._shown = 0  # characters of its text that events have
        self._untold: tuple[tuple, tuple, tuple] = (), (), ()  # ids, log-probabilities, top: not in an event yet
        self._wake = wake
        # Held while the reader is called, so that events keep their order; a reader may call back.
        self._changed = threading.Condition(threading.RLock())
        self._events: list[Event] = []  # not read yet
        self._callback: Callable[[Event | None], None] | None = None

    def __iter__(self) -> Iterator[Event]:
        """Waits for events; ends when the request has. A second reader gets what the first has not."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events or self.finish_reason)
                if not self._events:
                    return
                event = self._events.pop(0)
            yield event

    def subscribe(self, callback: Callable[[Event | None], None]) -> None:
        """Calls `callback` with every event as it comes, and with None at the end.

        What is there already is handed over at once, in the caller's thread; the rest comes from the engine's thread,
        which writes nothing meanwhile: hand it on (`loop.call_soon_threadsafe`) and return. If the callback raises, the
        request is cancelled.
        """
        with self._changed:
            for event in self._events:
                callback(event)
            self._events.clear()
            if self.finish_reason is not None:
                callback(None)
            else:
                self._callback = callback

    def cancel(self) -> None:
        """Lets the engine write no more of it, soon. What has ended stays as it ended."""
        self.cancelled = True
        self._wake()

    def result(self, timeout: float | None = None) -> Completion:
        """Waits for the end, and returns the whole; its `finish_reason` may be any.

        Raises:
            TimeoutError: if it has not ended after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.finish_reason is not None, timeout):
                raise TimeoutError(f'the request has not ended after {timeout} seconds')
            return self._transcript.completion()

    # What follows is for the engine.

    def take(
        self, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[tuple[tuple[int, float], ...]]
    ) -> FinishReason | None:
        """Adds the next tokens, up to one that ends the text. Returns why it ended, or None."""
        transcript = self._transcript
        before = len(transcript.ids)
        for token, logprob in zip(ids, logprobs):
            transcript.add(token, logprob)
        taken = len(transcript.ids) - before
        self._untold = tuple(ids[:taken]), tuple(logprobs[:taken]), tuple(top[:taken])
        return transcript.finish_reason

    def finish(self, reason: FinishReason, error: str | None = None) -> None:
        """Ends it, unless it has ended."""
        if self.finish_reason is None:
            self._transcript.finish(reason)
            self.error = error
            self.tell()

    def tell(self) -> None:
        """Lets the reader know what was added, and whether it has ended."""
        transcript = self._transcript
        text = transcript.settled[self._shown :]
        self._shown += len(text)
        event = Event(text, *self._untold)
        self._untold = (), (), ()
        with self._changed:
            if event.ids or text:
                self._call(event) if self._callback else self._events.append(event)
            self.finish_reason = transcript.finish_reason
            if self.finish_reason is not None and self._callback:
                self._call(None)
            self._changed.notify_all()

    def _call(self, event: Event | None) -> None:
        try:
            self._callback(event)
        except Exception:
            self.cancelled, self._callback = True, lambda event: None


def checked_prompt(request: Request, generator: Generator, capacity: int) -> list[int]:
    """The ids that are continued.

    Raises:
        UserError: if an engine with room for `capacity` tokens in a slot cannot serve the request.
    """
    prompt = generator.encode(request.prompt)
    check_prompt(generator.model, prompt, request.max_new_tokens, 'error')
    if len(prompt) + request.max_new_tokens - 1 > capacity:
        raise UserError(
            f'a prompt of {len(prompt)} tokens and {request.max_new_tokens} new ones do not fit the {capacity} tokens '
            'that the engine keeps for each request; shorten the prompt, or ask for fewer'
        )
    if '' in request.stop:
        raise UserError('a stop string is empty; leave it out, or give it at least one character')
    if not 0 <= request.top_logprobs <= MOST_TOP:
        raise UserError(f'top_logprobs is {request.top_logprobs}; ask for 0 to {MOST_TOP}')
    if request.timeout is not None and not request.timeout > 0:
        raise UserError(f'timeout is {request.timeout}; it must be positive, or None for no limit')
    return prompt
