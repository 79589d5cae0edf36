"""A process that dies in the middle of a run, as it stands."""

from llm.training.ledger import Ledger


class Crash(Exception):
    pass


def crash_at(monkeypatch, step):
    """The process dies when the metrics of `step` arrive."""
    read = Ledger.read

    def dying(self, at, metrics):
        if at == step:
            raise Crash
        return read(self, at, metrics)

    monkeypatch.setattr(Ledger, 'read', dying)
