"""Being asked to stop: noted once, by whoever is innermost, and passed on to who comes after."""

import os
import signal

from llm.training.signals import StopSignal


def test_a_signal_is_noted_and_the_second_acts_as_usual():
    came = []
    previous = signal.signal(signal.SIGTERM, lambda *_: came.append('usual'))
    try:
        with StopSignal() as stop:
            assert stop.signal is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal == signal.SIGTERM and came == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert came == ['usual']
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_who_starts_after_the_signal_is_told():
    with StopSignal() as outer:
        with StopSignal() as first:
            assert first.signal is None
        os.kill(os.getpid(), signal.SIGTERM)  # between two runs
        assert outer.signal == signal.SIGTERM
        with StopSignal() as second:
            assert second.signal == signal.SIGTERM
    with StopSignal() as later:
        assert later.signal is None
