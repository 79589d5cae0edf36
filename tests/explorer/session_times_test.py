"""The first token's time is that of a step like the others: nothing that only warms up is left running behind it."""

import jax

from llm.explorer import sessions


def test_warming_up_is_waited_for(explorer, monkeypatch):
    waited, step_once, ready = [], sessions.step_once, jax.block_until_ready
    results = []

    def step(*arguments):
        results.append(step_once(*arguments))
        return results[-1]

    monkeypatch.setattr(sessions, 'step_once', step)
    monkeypatch.setattr(jax, 'block_until_ready', lambda value: waited.append(value) or ready(value))
    monkeypatch.setattr(explorer.sessions, '_compiled', set())
    explorer.answer('POST', 'sessions', {'prompt': 'a'})
    assert len(results) == 2 and any(value is results[-1] for value in waited)
