"""Continuous batching: requests join and leave a batch that is being decoded, each as if it were alone."""

from llm.inference.generate import Generator
from llm.inference.requests import EngineStopped, Event, Handle, QueueFull, Request, Statistics

__all__ = ['Engine', 'EngineStopped', 'Event', 'Handle', 'QueueFull', 'Request', 'Statistics']


class Engine:
    """A thread that serves requests with one model, many at a time."""

    def __init__(
        self,
        generator: Generator,
        *,
        slots: int = 16,
        capacity: int | None = None,
        max_queue: int = 64,
        prefill_chunk: int = 512,
    ):
        """
        Args:
            generator: the model, its parameters, its tokenizer and the tokens that end a text.
            slots: most requests that are served at a time.
            capacity: most tokens of a request, prompt and new ones but the last; None is the model's context.
            max_queue: most requests that wait; further ones are refused.
            prefill_chunk: most tokens of prompts read between two looks at who decodes, a power of two.

        Raises:
            UserError: for a number out of its range.
        """
        raise NotImplementedError

    def start(self) -> None:
        """Compiles all programs, then starts the thread. Requests may be submitted before."""
        raise NotImplementedError

    def stop(self, drain: bool = True, timeout: float | None = None) -> None:
        """Takes no more requests and waits for the thread to end.

        Args:
            drain: serve what was accepted to its end; else, cancel it.
            timeout: seconds after which what still runs is cancelled; None waits for all.
        """
        raise NotImplementedError

    def submit(self, request: Request) -> Handle:
        """Accepts a request; from any thread, at once.

        Raises:
            QueueFull: if `max_queue` requests wait already.
            UserError: if it does not fit, or a setting is out of its range.
            EngineStopped: after `stop`.
        """
        raise NotImplementedError

    def statistics(self) -> Statistics:
        raise NotImplementedError
