"""Ablations: what their arms are, and that what is said of them is what their workdirs say. Nothing is trained here."""

import dataclasses
import json
import re

import pytest

from llm import config_json
from llm.ablation import plan as ablation
from llm.ablation import report as ablation_report
from llm.ablation import results as ablation_results
from llm.ablation.plan import Ablation, arm_configs, run_configs
from llm.ablation.warnings import warnings
from llm.config import AdamW, Config, Constant, Cosine, DataConfig, ModelConfig, Muon, TrainingConfig, WarmupStableDecay
from llm.errors import MachineError, UserError
from llm.sweep import registry
from llm.sweep.options import SweepOptions

BASE = Config(
    model=ModelConfig(vocab_size=64, context_length=16, num_layers=1, width=16, num_heads=2),
    data=DataConfig(sequence_length=16),
    optimizer=AdamW(learning_rate=1e-2),
    schedule=Cosine(horizon=100, warmup=10),
    training=TrainingConfig(steps=100, batch_size=4),
)
QUESTION = Ablation(
    'Which way?', BASE, {'alibi': {'model.position': 'alibi'}, 'wide': {'model.width': 32}}, base_label='rope'
)


def test_the_base_comes_first_and_arms_are_what_they_say():
    arms = arm_configs(QUESTION)
    assert list(arms) == ['rope', 'alibi', 'wide']
    assert arms['rope'] == BASE
    assert config_json.difference(BASE, arms['alibi']) == {'model.position': ('rope', 'alibi')}


def test_seeds_are_paired_but_where_they_are_not_to_be():
    question = dataclasses.replace(QUESTION, other_seeds=('wide',))
    runs = run_configs(question, arm_configs(question), 3)
    seeds = {label: [(c.seed, c.data.seed) for c in one.values()] for label, one in runs.items()}
    assert seeds['rope'] == seeds['alibi'] == [(0, 0), (1, 1), (2, 2)]
    assert seeds['wide'] == [(1000, 1000), (1001, 1001), (1002, 1002)]
    assert list(runs['alibi']) == [c.name for c in runs['alibi'].values()]
    names = [name for one in runs.values() for name in one]
    assert len(set(names)) == len(names) == 9


@pytest.mark.parametrize('budget', ['tokens', 'flops'])
def test_arms_spend_what_the_base_spends_within_a_step(budget):
    arms = arm_configs(
        dataclasses.replace(
            QUESTION,
            arms={
                'wide': {'model.width': 32},
                'long rows': {'data.sequence_length': 8},
                'large batch': {'training.batch_size': 12},
                'other schedule': {'model.width': 32, 'schedule': WarmupStableDecay(100, 10, decay=30)},
                'constant': {'model.width': 32, 'schedule': Constant(10)},
            },
        ),
        budget,
    )
    spent = ablation.cost(BASE, budget)
    for label, config in arms.items():
        step = ablation.cost(config, budget) / config.training.steps
        assert abs(ablation.cost(config, budget) - spent) <= step / 2 + 1e-6, label
        if label != 'constant':
            assert config.schedule.horizon == config.training.steps, label
        assert config.schedule.warmup == pytest.approx(config.training.steps / 10, abs=0.5)
    if budget == 'flops':
        assert arms['wide'].training.steps < 60
        assert arms['other schedule'].schedule.decay == pytest.approx(arms['wide'].training.steps * 0.3, abs=0.5)


def test_ramps_that_fill_a_schedule_still_do_when_it_is_stretched():
    config = dataclasses.replace(BASE, schedule=WarmupStableDecay(100, 50, decay=50))
    for steps in range(1, 60):
        assert ablation.stretched(config, steps).schedule.horizon == steps


def test_every_learning_rate_of_an_optimizer_is_scaled():
    assert ablation.learning_rates(BASE, 2) == {'optimizer.learning_rate': 2e-2}
    muon = dataclasses.replace(BASE, optimizer=Muon(learning_rate=0.02, adam_learning_rate=0.004))
    assert ablation.learning_rates(muon, 0.5) == {
        'optimizer.learning_rate': 0.01,
        'optimizer.adam_learning_rate': 0.002,
    }


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'arms': {}}, 'no arm'),
        ({'arms': {'rope': {}}}, 'another label'),
        ({'other_seeds': ('nobody',)}, 'no arm of alibi, wide'),
    ],
)
def test_questions_that_make_no_sense_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(QUESTION, **change)


def test_a_misspelt_field_is_named_with_its_arm():
    with pytest.raises(UserError, match=r'arm typo: the config has no field model\.positon; perhaps .*model\.position'):
        arm_configs(dataclasses.replace(QUESTION, arms={'typo': {'model.positon': 'alibi'}}))


# What came of runs, without training them: summaries and metrics as the loop writes them.


def finish(run, value, *, code='abc', events=()):
    config = run.workdir.config()
    steps = config.training.steps
    summary = {
        'status': 'done',
        'step': steps,
        'message': '',
        'parameters': 1000,
        'held_out': {'loss': value * 2, 'bits_per_byte': value},
        'tokens_per_second': 100.0 + value,
        'seconds': 1.0,
        'flops': 1e9,
        'code_version': code,
        'config_hash': config_json.config_hash(config),
        'params_sha256': f'{hash(value):x}'.strip('-') * 4,
        'data': {'train': {'tokens': 5000}},
    }
    run.workdir.write_summary(summary)
    rows = [{'kind': 'event', 'step': 1, 'attempt': 1, 'event': event} for event in events]
    for step in (steps // 2, steps):
        rows.append({'kind': 'train', 'step': step, 'attempt': 1, 'loss': value * 3, 'tokens': step, 'flops': 1.0})
        rows.append({'kind': 'evaluation', 'step': step, 'attempt': 1, 'bits_per_byte': value, 'loss': value * 2})
    run.workdir.metrics_file.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An ablation whose runs come out as the values that it is given, by arm and seed; None is a run that fails."""

    def make(question, values, *, tuning=None, seeds=3, **options):
        def run_sweep(folder, configs, _):
            failed = 0
            for run in registry.create(folder, configs):
                label, _, point = run.name.rpartition(',')
                number = float(point.split('=')[1])
                found = tuning[label].get(number) if 'rate=' in point else values[label][int(number) % 1000]
                if found is None:
                    failed += 1
                else:
                    finish(run, found)
            if failed:
                raise MachineError(f'{failed} of {len(configs)} runs failed')

        monkeypatch.setattr(ablation, 'run_sweep', run_sweep)
        ablation.run(
            'fake', question, tmp_path, seeds=seeds, tuned=tuning is not None, options=SweepOptions(), **options
        )
        return ablation_results.read(tmp_path)

    return make


VALUES = {'rope': [2.00, 2.10, 2.05], 'alibi': [1.90, 2.01, 1.94], 'wide': [2.01, 2.08, 2.06]}


def test_verdicts_follow_from_the_workdirs(fake):
    results = fake(QUESTION, VALUES)
    alibi, wide = results.comparisons
    assert (alibi.outcome, wide.outcome) == ('better', 'not distinguishable')
    assert alibi.difference.mean == pytest.approx(-0.1)
    assert alibi.verdict.startswith('better by 0.1000 bits per byte [0.0')
    assert alibi.p_holm == pytest.approx(2 * alibi.difference.p_value)
    assert results.summary == (
        'Against rope: alibi is better; wide is not distinguishable from it '
        '(3 paired seeds, equal tokens, learning rate not tuned per arm).'
    )


def test_an_arm_that_is_the_base_and_one_of_other_seeds_are_not_distinguishable(fake):
    question = Ablation('Anything?', BASE, {'same': {}, 'others': {}}, other_seeds=('others',))
    results = fake(question, {'base': [2.0, 2.1, 2.05], 'same': [2.0, 2.1, 2.05], 'others': [2.1, 2.0, 2.06]})
    assert [one.outcome for one in results.comparisons] == ['not distinguishable'] * 2
    assert results.comparisons[0].changed == {}
    assert set(results.comparisons[1].changed) == {'seed', 'data.seed'}
    assert 'better' not in results.summary and 'worse' not in results.summary
    assert any(line.startswith('Not paired') for line in warnings(results))


def test_an_arm_without_all_of_its_seeds_is_not_compared_and_the_others_are(fake, tmp_path):
    with pytest.raises(MachineError, match='1 of 9'):
        fake(QUESTION, VALUES | {'wide': [1.0, None, 1.0]})
    results = ablation_results.read(tmp_path)
    alibi, wide = results.comparisons
    assert alibi.outcome == 'better' and alibi.p_holm == alibi.difference.p_value, 'a family of one'
    assert (wide.outcome, wide.difference) == ('untested', None)
    assert 'wide,seed=1 (planned)' in warnings(results)[0]
    assert 'not compared' in ablation_report.write(results)[0].read_text()


def test_one_seed_is_reported_without_a_verdict(fake):
    results = fake(QUESTION, VALUES, seeds=1)
    assert {one.outcome for one in results.comparisons} == {'untested'}
    assert 'one seed cannot tell' in results.comparisons[0].verdict
    assert 'too few' in warnings(results)[0]
    assert ablation_report.write(results)[0].is_file()


def test_every_claim_on_the_page_leads_to_its_runs(fake, tmp_path):
    results = fake(QUESTION, VALUES)
    html, markdown = (path.read_text() for path in ablation_report.write(results))
    for one in results.comparisons:
        anchor = re.search(rf'<tr><th>{one.arm.label}</th>.*?href="#([^"]*)"', html, re.DOTALL)[1]
        section = html[html.index(f'id="{anchor}"') :].split('<h3')[0]
        links = re.findall(r'href="([^"#][^"]*)"', section)
        assert [tmp_path / link.replace('%2C', ',').replace('%3D', '=') for link in links] == [
            run.workdir.path for run in one.arm.runs
        ]
        for row in one.arm.rows:
            assert row['config_hash'] in section and row['code_version'] in section
            assert row['params_sha256'][:16] in section and row['config_hash'] in markdown
        assert one.verdict in markdown
    assert results.summary in html and results.summary in markdown
    stored = json.loads((tmp_path / 'results.json').read_text())
    assert stored['comparisons']['alibi']['difference']['mean'] == pytest.approx(-0.1)
    assert [run['params_sha256'] for run in stored['runs']['alibi']] == [
        row['params_sha256'] for row in results.comparisons[0].arm.rows
    ]


def test_the_page_stands_alone_and_markdown_tables_are_whole(fake):
    html, markdown = (path.read_text() for path in ablation_report.write(fake(QUESTION, VALUES)))
    assert not re.search(r'(src=|https?://|<script)', html)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    for table in re.findall(r'(?:^\|.*\n)+', markdown, re.MULTILINE):
        assert len({line.count('|') for line in table.splitlines()}) == 1
    assert '| alibi | `model.position` | `"rope"` | `"alibi"` |' in markdown


def test_the_speed_of_runs_that_were_trained_together_is_marked(fake):
    results = fake(QUESTION, VALUES)
    for run in results.comparisons[0].arm.runs:
        run.workdir.write_runtime({'population': 3})
    markdown = ablation_report.write(results)[1].read_text()
    assert '102 (3 together) |' in markdown and markdown.count('together) |') == 1


def test_what_makes_a_comparison_unfair_is_said(fake):
    results = fake(QUESTION, VALUES)
    said = ' '.join(warnings(results))
    assert 'not tuned per arm' in said
    assert 'Not at equal parameters: wide +' in said and 'Not at equal training FLOPs (--budget flops' in said
    assert 'read more than once by rope (1.3 times)' in said  # 6,400 tokens of 5,000
    assert 'end of the schedule' not in said and 'code versions' not in said
    finish(results.base.runs[0], 2.0, code='other', events=['rollback'])
    said = ' '.join(warnings(ablation_results.read(results.folder)))
    assert 'different code versions: abc, other' in said and 'Diverged on the way' in said


def test_at_equal_flops_tokens_are_what_is_unequal(fake):
    said = ' '.join(warnings(fake(QUESTION, VALUES, budget='flops')))
    assert 'Not at equal tokens: wide −' in said and 'equal training FLOPs' not in said


def test_losses_per_token_of_different_tokenizers_are_not_drawn_together(fake):
    question = dataclasses.replace(QUESTION, arms={'bigger': {'model.vocab_size': 128}})
    results = fake(question, {'rope': VALUES['rope'], 'bigger': VALUES['alibi']})
    html = ablation_report.write(results)[0].read_text()
    assert 'Training loss</figcaption>' not in html and 'Held-out bits per byte along' in html
    assert any('cut text differently' in line for line in warnings(results))


TRIED = {
    'rope': {0.25: 2.4, 0.5: 2.2, 1.0: 2.1, 2.0: 2.3, 4.0: None},
    'alibi': {0.25: 2.4, 0.5: 2.0, 1.0: 2.1, 2.0: 2.3, 4.0: 2.6},
    'wide': {0.25: 1.9, 0.5: 2.0, 1.0: 2.1, 2.0: 2.3, 4.0: 2.6},
}


def test_tuning_takes_for_each_arm_the_rate_that_was_best_on_a_seed_apart(fake, tmp_path):
    results = fake(QUESTION, VALUES, tuning=TRIED)
    rates = {arm.label: {c.workdir.config().optimizer.learning_rate for c in arm.runs} for arm in results.arms}
    assert rates == {'rope': {0.01}, 'alibi': {0.005}, 'wide': {0.0025}}
    tuning = registry.open_sweep(tmp_path / 'tuning')
    assert {run.workdir.config().seed for run in tuning} == {ablation.TUNING_SEED}
    assert {run.workdir.config().seed for arm in results.arms for run in arm.runs} == {0, 1, 2}
    said = ' '.join(warnings(results))
    assert 'not tuned' not in said and 'perhaps better beyond it: wide.' in said
    html, markdown = (path.read_text() for path in ablation_report.write(results))
    assert '2.0000 *' in html and '| alibi | 2.4000 | 2.0000 * | 2.1000 |' in markdown and 'failed' in markdown
    assert 'tuned per arm' in results.summary


def test_tuning_in_which_all_runs_of_an_arm_fail_is_an_error(fake):
    with pytest.raises(MachineError, match='runs failed'):
        fake(QUESTION, VALUES, tuning=TRIED | {'wide': dict.fromkeys(ablation.FACTORS)})


def test_a_folder_without_an_ablation_is_refused(tmp_path):
    with pytest.raises(UserError, match='holds no ablation'):
        ablation_results.read(tmp_path)
    (tmp_path / ablation.PLAN).write_text('{')
    with pytest.raises(UserError, match='is damaged'):
        ablation_results.read(tmp_path)


@pytest.mark.parametrize('seeds', [0, ablation.OTHER_SEEDS + 1])
def test_numbers_of_seeds_that_cannot_be_are_refused(seeds, tmp_path):
    with pytest.raises(UserError, match='--seeds'):
        ablation.run('x', QUESTION, tmp_path, seeds=seeds, options=SweepOptions())
    assert not list(tmp_path.iterdir())
