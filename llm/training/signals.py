"""Being asked to stop."""

import signal


class StopSignal:
    """Inside the `with`, SIGTERM and SIGINT are noted instead of acted on; a second one acts as usual.

    Attributes:
        signal: the number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None
        self._previous = {}

    def __enter__(self) -> 'StopSignal':
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:
            pass  # not the main thread: whoever owns that one decides
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.signal = int(number)
        signal.signal(number, self._previous[number])
