"""Being asked to stop."""

import os
import signal
import threading


class StopSignal:
    """Inside the `with`, SIGTERM and SIGINT are noted instead of acted on; a second one acts as usual.

    One inside another begins with what the outer one has noted: who is asked to stop between two runs does not start
    the second.

    Attributes:
        signal: the number of the signal that came, or None.
    """

    _innermost: 'StopSignal | None' = None

    def __init__(self):
        self.signal: int | None = None
        self._previous = {}
        self._outer: StopSignal | None = None

    def __enter__(self) -> 'StopSignal':
        self._outer, StopSignal._innermost = StopSignal._innermost, self
        self.signal = self._outer.signal if self._outer else None
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:
            pass  # not the main thread: whoever owns that one decides
        return self

    def __exit__(self, *_) -> None:
        StopSignal._innermost = self._outer
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.signal = int(number)
        signal.signal(number, self._previous[number])


def end_with_parent() -> None:
    """Asks this process to save and stop when the one that started it is gone: its end of our stdin, a pipe, closes."""

    def wait():
        os.read(0, 1)  # not through sys.stdin, whose lock would be held when Python ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
