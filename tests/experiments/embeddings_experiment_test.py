"""The experiment on token embeddings: its lists, its numbers on vectors whose answers are known, and its page."""

import json

import numpy as np
import pytest

from experiments.embeddings import __main__ as program
from experiments.embeddings import measure, page, pairs
from llm.analysis import embeddings
from llm.config import Config, DataConfig, ModelConfig
from llm.data.prepare import prepare
from llm.errors import UserError
from llm.workdir import Workdir


def test_the_lists_are_pairs_without_repeats():
    for name, found in pairs.RELATIONS.items():
        assert len(found) >= 15 and len(set(found)) == len(found), name
        assert all(len(pair.split()) == 2 and len(set(pair.split())) == 2 for pair in found), name
    words = [word for group in pairs.GROUPS.values() for word in group]
    assert len(set(words)) == len(words)
    assert set(pairs.SPELLING) < set(pairs.RELATIONS)


@pytest.fixture(scope='module')
def vectors():
    """Ten pairs (i, 10 + i) with an offset, ten (20 + i, 30 + i) without, and 60 others."""
    random = np.random.default_rng(0)
    made = random.normal(size=(100, 24))
    made[10:20] = made[:10] + 0.1 * made[10:20] + 4 * random.normal(size=24)
    return embeddings.unit(made.astype(np.float32))


def test_a_planted_relation_is_found_and_an_empty_one_is_not(vectors):
    named = lambda start: ({f'{i}': (start + i, start + 10 + i) for i in range(10)}, [])
    relations = {'planted': named(0), 'empty': named(20), 'short': ({'a': (1, 2)}, ['b c'])}
    rows = measure.relation_scores(relations, {measure.MODEL: vectors}, np.ones(100, bool), 100)
    planted, empty = (row['scores'][measure.MODEL] for row in rows[:2])
    assert planted['first']['mean'] > 0.9 and planted['p_holm'] < 0.05 and planted['over_nearest']['low'] > 0.5
    assert planted['random_first']['high'] < 0.5 and planted['questions'] == 90
    assert planted['shuffled_first']['mean'] > 0.8  # an offset that all pairs share survives wrong partners
    assert empty['first']['mean'] < 0.15 and empty['p_holm'] > 0.05
    assert rows[2]['scores'] == {} and rows[2]['left_out'] == ['b c']


def test_groups_that_are_there_are_found(vectors):
    random = np.random.default_rng(1)
    centres = np.repeat(random.normal(size=(3, 24)), 10, axis=0)
    near = embeddings.unit(centres + 0.3 * random.normal(size=(30, 24)))
    grouped = {str(g): {f'{g}{i}': 10 * g + i for i in range(10)} for g in range(3)}
    scores = measure.group_scores(grouped, {'near': near, 'far': vectors}, 200)['scores']
    assert scores['near']['same']['mean'] == 1 and scores['near']['chance']['high'] < 0.7
    assert scores['far']['same']['low'] < scores['far']['chance']['high']
    assert scores['near']['chance']['mean'] == pytest.approx(9 / 29, abs=0.05)


def test_the_experiment_runs_from_a_workdir_to_a_page(tmp_path, capsys, monkeypatch):
    words = [
        word for name in ('opposites', 'one and many') for pair in pairs.RELATIONS[name][:8] for word in pair.split()
    ]
    words += [*pairs.GROUPS['types'], *pairs.SHOWN]
    random = np.random.default_rng(0)
    for i in range(40):
        lines = [' '.join(['x', *random.choice(words, 30)]) for _ in range(20)]
        (tmp_path / f'{i}.txt').write_text('\n'.join(lines))
    model = ModelConfig(vocab_size=500, context_length=16, num_layers=1, width=16, num_heads=2)
    config = Config(model=model, data=DataConfig(corpora=(f'text:{tmp_path}/*.txt',), sequence_length=16))
    (tmp_path / 'run').mkdir()
    Workdir(tmp_path / 'run').write_config(config)
    prepare(config).tokenizer.save_in(tmp_path / 'run')
    params = {'embedding': {'table': random.normal(size=(500, 16))}}
    monkeypatch.setattr('llm.training.checkpoint.load_params', lambda workdir, step: (7, params))
    monkeypatch.setattr('llm.runtime.prepare_host', lambda workdir: None)
    out = tmp_path / 'report'
    program.main(['--workdir', str(tmp_path / 'run'), '--out', str(out), '--draws', '20'])
    results = json.loads((out / 'results.json').read_text())
    scored = [row for row in results['relations'] if row['scores']]
    assert scored and all(set(row['scores']) == {measure.MODEL, measure.COUNTS} for row in scored)
    assert results['groups']['words'] >= sum(map(len, results['map']['groups'].values())) >= 12
    shown, said = (out / 'report.html').read_text(), capsys.readouterr().out
    assert shown.count('<svg') == 2 and all(row['name'] in said for row in results['relations'])
    assert all(claim in said for claim in page.claims(results))
    with pytest.raises(UserError, match='--draws is 5'):
        program.main(['--workdir', str(tmp_path / 'run'), '--out', str(out), '--draws', '5'])
