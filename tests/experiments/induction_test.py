"""The induction experiment: what its sequences are, what its numbers mean, and that it runs from end to end."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.induction import __main__ as program
from experiments.induction import measure, report, sequences
from experiments.induction import plan as plans
from llm import runtime
from llm.analysis import lens
from llm.config import ModelConfig
from llm.errors import UserError


def test_what_goes_on_stood_before_and_nothing_tells_where():
    random, back = np.random.default_rng(0), []
    for _ in range(50):
        text, goes_on = sequences.document(random, repeats=True)
        assert len(text) == plans.LENGTH and not goes_on[: sequences.SPANS[0]].any()
        for place in np.flatnonzero(goes_on):
            pair = tuple(text[place - 1 : place + 1])
            earlier = [p for p in range(1, place) if tuple(text[p - 1 : p + 1]) == pair]
            assert earlier
            back.append(place - earlier[-1])
    assert len(set(back)) > 30 and np.bincount(back).max() < 0.15 * len(back)
    assert not sequences.document(random, repeats=False)[1].any()


def test_measured_rows_begin_with_a_beginning_and_hold_letters():
    tokens, goes_on = sequences.measured_documents(5, seed=1)
    assert tokens.shape == goes_on.shape == (5, 1 + plans.LENGTH)
    assert (tokens[:, 0] == plans.BOS).all() and not goes_on[:, 0].any()
    assert all(chr(token - plans.FIRST_BYTE) in sequences.ALPHABET for token in tokens[:, 1:].flat)
    blocks = sequences.measured_blocks(2, 7, seed=1)
    np.testing.assert_array_equal(blocks[:, 1:8], blocks[:, 8:])


def test_losses_are_means_over_what_they_say():
    tokens, goes_on = sequences.measured_documents(3, seed=4)
    logits = np.random.default_rng(0).normal(size=(3, tokens.shape[1], plans.VOCABULARY)).astype(np.float32)
    new, again = measure._losses(jnp.asarray(logits), tokens, goes_on)
    nats = lambda row, place: np.log(np.exp(logits[row, place - 1]).sum()) - logits[row, place - 1, tokens[row, place]]
    first = [nats(row, place) for row in range(3) for place in range(1, 1 + sequences.SPANS[0])]
    np.testing.assert_allclose(new, np.mean(first), rtol=1e-5)
    np.testing.assert_allclose(again, np.mean([nats(row, place) for row, place in np.argwhere(goes_on)]), rtol=1e-5)


def test_heads_are_found_by_their_scores():
    scores = {
        'induction': np.array([[0.1, 0.0, 0.2], [0.5, 0.39, 0.9]]),
        'previous': np.array([[0.1, 0.3, 0.2], [0.9, 0.9, 0.9]]),
    }
    assert measure.found_heads(scores) == ([(1, 0), (1, 2)], (0, 1))
    assert measure.found_heads({name: 0.1 * value for name, value in scores.items()}) == ([], None)
    assert measure.found_heads({name: value[1:] for name, value in scores.items()}) == ([(0, 0), (0, 2)], None)


def test_removing_nothing_changes_nothing_and_a_head_becomes_its_mean():
    config = ModelConfig(vocab_size=9, context_length=8, num_layers=2, width=8, num_heads=2)
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2, 5, 4)), jnp.float32)
    apply = lambda heads: np.asarray(
        outputs * (edit := measure.removed(config, outputs, heads)['head_outputs']).scale + edit.offset
    )
    np.testing.assert_array_equal(apply([]), outputs)
    changed = apply([(1, 0), (0, 1)])
    expected = np.array(outputs)
    for layer, head in ((1, 0), (0, 1)):
        expected[layer, :, head] = expected[layer, :, head].mean((0, 1))
    np.testing.assert_allclose(changed, expected, atol=1e-6)
    assert isinstance(measure.removed(config, outputs, [])['head_outputs'], lens.Edit)


def made_up(again: dict[str, float], found: bool) -> report.Findings:
    """Findings of two seeds."""
    random, steps = np.random.default_rng(0), [10, 20]

    def history(arm):
        scores = {name: 0.3 * random.random((2, 2, 2)) for name in ('previous', 'duplicate', 'induction')}
        last = again[arm] + 0.01 * random.random()
        return measure.History(steps, [4.2, 4.2], [4.1, last], scores)

    removal = lambda: measure.Removal(
        induction=[(1, 0)] if found else [],
        previous=(0, 1) if found else None,
        whole=1.0,
        without_induction=3.0 + 0.1 * random.random() if found else 1.0,
        without_previous=2.0 + 0.1 * random.random() if found else None,
        without_others=1.1 + 0.1 * random.random() if found else None,
        scores=[0.8] if found else [],
        scores_without_previous=[0.1] if found else [],
    )
    histories = {arm: [history(arm), history(arm)] for arm in report.ARMS}
    return report.Findings(histories, [removal(), removal()], ('ab', [('<a head>', np.eye(2))]), 12.0)


def test_the_page_says_what_was_found(tmp_path):
    again = {plans.TWO: 1.0, plans.ONE: 3.0, plans.RANDOM: 4.0}
    findings = made_up(again, found=True)
    page = report.write(tmp_path, plans.QUICK, findings).read_text()
    said = ' '.join(report.sentences(findings))
    assert 'Two layers come to 1.0' in said and '2 of 2 are in the second layer' in said
    assert 'the induction heads, spans that are said again cost 2.0' in said and 'fall from 0.80 to 0.10' in said
    assert all(sentence in page for sentence in report.sentences(findings))
    assert '&lt;a head&gt;' in page and page.count('<figure>') == 6
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['comparisons'][plans.ONE]['mean'] == pytest.approx(2.0, abs=0.02)
    assert 'No head has' in ' '.join(report.sentences(made_up(again, found=False)))
    report.write(tmp_path, plans.QUICK, made_up(again, found=False))


def test_the_arms_differ_in_what_they_are_called_after(tmp_path):
    runs = plans.runs(plans.Plan(seeds=2), tmp_path)
    assert len(runs) == 6
    layers = {name.split(',seed')[0]: config.model.num_layers for name, config in runs.items()}
    assert layers == {plans.TWO: 2, plans.ONE: 1, plans.RANDOM: 2}
    assert all(config.model.hidden_width == 0 for config in runs.values())
    assert len({config.data.seed for config in runs.values()}) == 2


def test_no_seed_is_refused():
    with pytest.raises(UserError, match='--seeds is 0'):
        program.main(['--seeds', '0'])


@pytest.mark.slow
def test_from_nothing_to_a_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, 'prepare_host', lambda: None)
    program.main(['--quick', '--seeds', '2', '--no-progress', '--out', str(tmp_path)])
    assert 'Two layers come to' in capsys.readouterr().out
    assert '6 runs' in (tmp_path / 'report.html').read_text()
