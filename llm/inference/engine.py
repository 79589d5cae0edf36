"""Continuous batching: requests join and leave a batch that is being decoded, each as if it were alone.

One thread serves them, turn by turn. A turn drops what was cancelled or is too late, gives free slots to those that
wait, reads pieces of prompts, at most `prefill_chunk` tokens of them, and writes a few tokens in every slot whose
prompt is read. So a long prompt holds the others up for no longer than a piece of it takes, and who comes waits for no
more than a few tokens to be written (Yu et al. 2022, Orca; Agrawal et al. 2023, Sarathi).
"""

import atexit
import dataclasses
import threading
import time
from collections import deque

from absl import logging

from llm.errors import UserError, first_line
from llm.inference.generate import Generator
from llm.inference.requests import (
    EngineStopped,
    Event,
    FinishReason,
    Handle,
    QueueFull,
    Request,
    Statistics,
    checked_prompt,
)
from llm.inference.slots import MOST_STEPS, Drawn, Slots

__all__ = ['Engine', 'EngineStopped', 'Event', 'Handle', 'QueueFull', 'Request', 'Statistics']

_COUNTED = {'cancelled': 'cancelled', 'deadline': 'expired', 'error': 'failed'}  # the others are completed


@dataclasses.dataclass(eq=False)
class _Row:
    """A request in a slot."""

    handle: Handle
    slot: int
    written: int = 0  # tokens

    @property
    def remaining(self) -> int:
        return self.handle.request.max_new_tokens - self.written


class Engine:
    """A thread that serves requests with one model, many at a time.

    What a request gets does not depend on the others: the same tokens as from `Generator.generate`, up to rounding in
    the matrix products, and the same log-probabilities to 1e-5 in float32.

    A request whose logits are not finite fails alone. If a program of the device fails, all requests that have a slot
    fail, and the engine goes on with those that wait.
    """

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
        if generator.reader is not None:
            raise UserError(
                'the engine serves models that read from left to right, and this one reads its prompts as a prefix or '
                'with an encoder; generate with --prompt, or take a run of another objective'
            )
        context = generator.model.config.context_length
        capacity = context if capacity is None else capacity
        for name, value, holds, must in (
            ('slots', slots, slots >= 1, 'at least 1'),
            ('capacity', capacity, 1 <= capacity <= context, f"from 1 to the model's context, {context}"),
            ('max_queue', max_queue, max_queue >= 1, 'at least 1'),
            ('prefill_chunk', prefill_chunk, prefill_chunk > 0 and prefill_chunk.bit_count() == 1, 'a power of two'),
        ):
            if not holds:
                raise UserError(f'{name} is {value}; it must be {must}')
        self.generator, self.capacity, self.max_queue = generator, capacity, max_queue

        # Shared between threads, under this lock.
        self._changed = threading.Condition()
        self._queue: deque[Handle] = deque()
        self._statistics = Statistics()
        self._thread: threading.Thread | None = None
        self._stopped: str | None = None  # why no more requests are taken
        self.failure: str | None = None  # why it broke down
        self._stop_at = float('inf')  # when those that were are cancelled

        # The thread's own.
        self._slots = Slots(generator, slots, capacity, prefill_chunk)
        self._free = list(range(slots))
        self._reading: deque[_Row] = deque()
        self._writing: list[_Row] = []

    def start(self) -> None:
        """Compiles all programs, then starts the thread. Requests may be submitted before; they wait.

        Raises:
            RuntimeError: if it was started before.
        """
        if self._thread is not None:
            raise RuntimeError('an engine starts once; make another')
        start = time.monotonic()
        self._slots.reset()
        self._slots.warm_up()
        logging.info('the engine is ready after %.1f s', time.monotonic() - start)
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)
        atexit.register(self.stop, drain=False)  # the thread must not outlive what the interpreter takes away
        self._thread.start()

    def stop(self, drain: bool = True, timeout: float | None = None) -> None:
        """Takes no more requests and waits for the thread to end. May be called again, to hurry it.

        Args:
            drain: serve what was accepted to its end; otherwise cancel it.
            timeout: seconds after which what is not done is cancelled; None waits for all.
        """
        grace = 0.0 if not drain else float('inf') if timeout is None else timeout
        with self._changed:
            self._stopped = self._stopped or 'the engine has been stopped; it takes no more requests'
            self._stop_at = min(self._stop_at, time.monotonic() + grace)
            self._changed.notify_all()
            thread = self._thread
        if thread is None:  # nobody will serve them
            self._end_all('cancelled')
        elif thread is not threading.current_thread():
            thread.join()
            atexit.unregister(self.stop)

    def submit(self, request: Request) -> Handle:
        """Accepts a request; from any thread, at once.

        Raises:
            QueueFull: if `max_queue` requests wait already.
            UserError: if it does not fit, or a setting is out of its range.
            EngineStopped: after `stop`.
        """
        prompt = checked_prompt(request, self.generator, self.capacity)
        handle = Handle(request, prompt, self.generator, self._wake)
        with self._changed:
            if self._stopped is not None:
                raise EngineStopped(self._stopped)
            if len(self._queue) >= self.max_queue + len(self._free):  # who gets a slot at once does not wait
                self._count(refused=1)
                raise QueueFull(f'{self.max_queue} requests wait already, and no more may; try again later')
            self._count(accepted=1)
            self._queue.append(handle)
            self._changed.notify_all()
        return handle

    def statistics(self) -> Statistics:
        """Counts so far; from any thread."""
        with self._changed:
            return dataclasses.replace(self._statistics, queued=len(self._queue))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _count(self, **more: float) -> None:
        """Adds to the statistics."""
        with self._changed:
            sums = {name: getattr(self._statistics, name) + value for name, value in more.items()}
            self._statistics = dataclasses.replace(self._statistics, **sums)

    # What follows runs in the engine's thread. It never holds the lock while it tells a reader something.

    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    self._turn()
                except Exception as error:
                    logging.exception('a turn of the engine failed')
                    self._fail(error)
        except BaseException as error:  # a fresh start failed too
            logging.exception('the engine broke down')
            with self._changed:
                self._stopped = f'the engine broke down ({_name(error)}) and takes no more requests; start it again'
                self.failure = self._stopped
            self._end_all('error', self._stopped)

    def _wait(self) -> bool:
        """Waits until there is something to do; False if there never will be."""
        with self._changed:
            busy = lambda: bool(self._queue or self._reading or self._writing)
            self._changed.wait_for(lambda: busy() or self._stopped is not None)
            return busy()

    def _turn(self) -> None:
        self._drop()
        self._admit()
        self._read()
        if self._writing:
            self._write()

    def _drop(self) -> None:
        """Ends what was cancelled, is too late, or outlasts the engine."""
        now = time.monotonic()

        def reason(handle: Handle) -> FinishReason | None:
            if handle.cancelled or now >= self._stop_at:
                return 'cancelled'
            return 'deadline' if handle.deadline is not None and now >= handle.deadline else None

        with self._changed:
            waiting = [(handle, reason(handle)) for handle in self._queue]
            self._queue = deque(handle for handle, why in waiting if why is None)
        for handle, why in waiting:
            if why is not None:
                self._end(handle, why)
        for row in [*self._reading, *self._writing]:
            if (why := reason(row.handle)) is not None:
                self._release(row, why)

    def _admit(self) -> None:
        """Gives free slots to those that wait, first come first served."""
        while self._free:
            with self._changed:
                if not self._queue:
                    return
                row = _Row(self._queue.popleft(), min(self._free))
                self._free.remove(row.slot)
                self._reading.append(row)
                self._count(running=1)
            self._slots.open(row.slot, row.handle.prompt)

    def _read(self) -> None:
        """Reads pieces of the prompts that are not read yet, of each in turn."""
        start, room = time.monotonic(), self._slots.prefill_chunk
        while self._reading:
            row = self._reading[0]
            if self._slots.unread(row.slot):
                piece = self._slots.next_piece(row.slot)
                if piece > room:
                    break
                self._slots.read(row.slot)
                room -= piece
            self._reading.popleft()
            if self._slots.unread(row.slot):
                self._reading.append(row)
            else:
                self._writing.append(row)
                self._count(prompt_tokens=len(row.handle.prompt))
        if room < self._slots.prefill_chunk:
            self._slots.wait()
            self._count(prefill_seconds=time.monotonic() - start)

    def _write(self) -> None:
        """Writes a few tokens in every slot whose prompt is read."""
        start = time.monotonic()
        most = MOST_STEPS
        if self._queue:  # somebody waits for a slot: be there when the first is free
            most = min(most, *(row.remaining for row in self._writing))
        drawn = self._slots.write(
            {row.slot: min(most, row.remaining) for row in self._writing},
            {row.slot: row.handle.request.sampling for row in self._writing},
            max(row.handle.request.top_logprobs for row in self._writing),
        )
        steps = max(len(found.ids) for found in drawn.values())
        self._count(decode_steps=steps, decode_seconds=time.monotonic() - start)
        for row in list(self._writing):
            self._hand_over(row, drawn[row.slot])

    def _hand_over(self, row: _Row, drawn: Drawn) -> None:
        """Gives a request what was written for it."""
        handle, error = row.handle, None
        top = [best[: handle.request.top_logprobs] for best in drawn.top]
        row.written += len(drawn.ids)
        try:
            reason = handle.take(drawn.ids, drawn.logprobs, top)
        except Exception as failure:  # in its text, so it is of no concern to the others
            logging.exception('the text of a request cannot be shown')
            reason, error = 'error', f'the text cannot be shown: {_name(failure)}'
        if reason is None and drawn.failed:
            reason = 'error'
            error = f'the logits after {row.written} new tokens are not finite; look for NaN or overflow in the model'
        if reason is None and row.remaining == 0:
            reason = 'length'
        self._count(generated_tokens=len(drawn.ids))
        if reason is None:
            handle.tell()
        else:
            self._release(row, reason, error)

    def _release(self, row: _Row, reason: FinishReason, error: str | None = None) -> None:
        """Ends a request that has a slot, and frees the slot."""
        with self._changed:
            (self._reading if row in self._reading else self._writing).remove(row)
            self._free.append(row.slot)
            self._count(running=-1)
        self._end(row.handle, reason, error)

    def _end(self, handle: Handle, reason: FinishReason, error: str | None = None) -> None:
        self._count(**{_COUNTED.get(reason, 'completed'): 1})
        handle.finish(reason, error)

    def _fail(self, error: Exception) -> None:
        """After an exception nobody knows what the slots hold: what is in them fails, and they are made anew."""
        self._release_all('error', f'the engine failed while it served this request ({_name(error)}); send it again')
        self._slots.reset()

    def _release_all(self, reason: FinishReason, error: str | None = None) -> None:
        for row in [*self._reading, *self._writing]:
            self._release(row, reason, error)

    def _end_all(self, reason: FinishReason, error: str | None = None) -> None:
        self._release_all(reason, error)
        with self._changed:
            waiting, self._queue = self._queue, deque()
        for handle in waiting:
            self._end(handle, reason, error)


def _name(error: BaseException) -> str:
    return f'{type(error).__name__}: {first_line(error)}'
