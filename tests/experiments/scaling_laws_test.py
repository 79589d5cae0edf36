"""The scaling-law experiment: its plan, and all of it on a tiny corpus."""

import csv
import json
import random

import numpy as np
import pytest

from experiments.scaling_laws import __main__ as command
from experiments.scaling_laws import held_out, stages
from experiments.scaling_laws.plan import Plan, config, configs, cost, parameters, profile, steps
from llm.analysis.flops import training_flops_per_token
from llm.analysis.scaling_laws.parametric import Law
from llm.errors import UserError
from llm.sweep import registry, scaling
from llm.sweep.options import SweepOptions


def test_every_run_spends_its_budget_and_ends_with_its_schedule():
    plan = Plan()
    runs = configs(plan)
    assert 20 <= len(runs) <= plan.sizes * len(plan.budgets)
    for budget in plan.budgets:
        for width in profile(plan, budget):
            one = runs[config(plan, width, budget).name]
            tokens = one.training.steps * one.training.batch_size * one.data.sequence_length
            assert tokens * cost(plan, width) == pytest.approx(budget, rel=0.5 / plan.least_steps)
            assert one.schedule.horizon == one.training.steps and scaling.left(one) == 0


def test_sizes_reach_from_30_thousand_to_2_million_parameters():
    plan = Plan()
    sizes = {parameters(plan, width) for budget in plan.budgets for width in profile(plan, budget)}
    assert 25_000 < min(sizes) < 35_000 and 1.8e6 < max(sizes) < 2.3e6


def test_profiles_move_up_with_the_budget_and_leave_out_sizes_without_steps():
    plan = Plan()
    assert profile(plan, 1e13)[-1] > profile(plan, 1e11)[-1] and len(profile(plan, 1e13)) == plan.sizes
    small = profile(plan, 5e10)
    assert 0 < len(small) < plan.sizes and all(steps(plan, width, 5e10) >= plan.least_steps for width in small)
    with pytest.raises(UserError, match='take a larger budget'):
        config(plan, 160, 1e9)


@pytest.mark.slow
def test_the_dry_run_says_what_it_costs_and_makes_nothing(tmp_path, capsys):
    command.main(['--dry-run', '--out', str(tmp_path / 'none')])
    said = capsys.readouterr().out
    assert '23 runs' in said and '6.40 TFLOP' in said and not (tmp_path / 'none').exists()


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['--csv', 'a', '--sweep', 'b'], 'give one of them'),
        (['--scale', '0'], '--scale is 0'),
        (['--scale', '0.01'], 'take a larger --scale'),
        (['--csv', 'missing.csv'], 'cannot read missing.csv'),
        (['--sweep', 'missing'], 'holds no sweep'),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, said, tmp_path):
    with pytest.raises(UserError, match=said):
        command.main([*arguments, '--out', str(tmp_path / 'out')])


def test_a_csv_becomes_a_report(tmp_path, capsys):
    with open(tmp_path / 'runs.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['N', 'C', 'loss'])
        for c in (1e12, 2e12, 4e12):
            for n in (1e5, 2e5, 4e5, 8e5):
                writer.writerow([n, c, 1.5 + 60 / n**0.4 + 200 / (c / 6 / n) ** 0.4])
    command.main(['--csv', str(tmp_path / 'runs.csv'), '--out', str(tmp_path / 'out'), '--resamples', '30'])
    said = capsys.readouterr()
    assert '12 runs' in said.out and 'warning:' in said.err
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert results['fits']['parameters']['alpha'][0] == pytest.approx(0.4, abs=1e-3)


LAW = Law(*map(np.float64, (1.2, 60.0, 0.40, 300.0, 0.45)))


def pretend(folder, runs, options):
    """Writes what training leaves, with losses by a law."""
    made = registry.create(folder, runs)
    for run in made:
        one = run.workdir.config()
        size = held_out.plans.parameters(Plan(), one.model.width)
        step = one.training.batch_size * one.data.sequence_length
        tokens = step * np.arange(5, one.training.steps + 1, 5)
        with open(run.workdir.metrics_file, 'w') as file:
            for seen in [*tokens.tolist(), step * one.training.steps]:
                loss = float(LAW.loss(size, seen))
                row = {'kind': 'train', 'step': seen // step, 'attempt': 1, 'loss': loss, 'tokens': seen}
                file.write(
                    json.dumps(
                        row
                        | {
                            'flops': seen * training_flops_per_token(one.model, one.data.sequence_length),
                            'seconds': 1.0,
                        }
                    )
                    + '\n'
                )
        summary = {'status': 'done', 'step': one.training.steps, 'parameters': size, 'held_out': {'loss': loss}}
        run.workdir.write_summary(summary | {'message': '', 'data': {'train': {'tokens': 10**6}}})
    return made


def test_from_the_plan_to_the_error_of_the_prediction(tmp_path, monkeypatch, capsys):
    """The whole way but for the training, whose losses follow a law: the law comes back, the prediction is right."""
    monkeypatch.setattr(stages, 'run_sweep', pretend)
    monkeypatch.setattr(held_out, 'run_sweep', pretend)
    plan, out = Plan(), tmp_path / 'out'
    stages.run(out, plan, 40, SweepOptions())
    results = json.loads((out / 'results.json').read_text())
    found = results['fits']['with embeddings']
    for name, value in LAW._asdict().items():
        assert found[name][0] == pytest.approx(float(value), rel=1e-3)
    (larger,) = registry.open_sweep(out / 'held_out')
    prediction, before = results['prediction'], json.loads((out / 'prediction.json').read_text())
    assert before['measured'] is None and before['loss'] == prediction['loss']  # written down before
    assert abs(prediction['error']) < 1e-4 and 'C is 3.99 times the largest fitted' in prediction['beyond']
    assert prediction['flops'] == pytest.approx(plan.beyond * max(plan.budgets), rel=0.02)
    best = results['frontier_at_cost']['n']
    assert best[4][0] < held_out.plans.parameters(plan, larger.workdir.config().model.width) < best[-1][0]
    assert any('more than once' in warning for warning in results['warnings'])  # a million unique tokens
    said = capsys.readouterr()
    assert 'Measured' in said.out and 'predicted for' in said.err
    first = (out / 'report.md').read_text()
    stages.report(out, 40)
    assert (out / 'report.md').read_text().split('## Settings')[0] == first.split('## Settings')[0]


def test_a_table_of_runs_counts_embeddings_apart_and_leaves_out_what_is_not_done(tmp_path):
    plan = Plan(budgets=(1e11, 2e11))
    runs = pretend(tmp_path / 'sweep', configs(plan), None)
    runs[0].workdir.write_summary({'status': 'interrupted', 'step': 3})
    table = scaling.table(runs)
    assert table.names == tuple(run.name for run in runs[1:])
    widths = np.array([run.workdir.config().model.width for run in runs[1:]])
    assert (table.counts['with embeddings'] - table.counts['without embeddings']).tolist() == (512 * widths).tolist()
    assert table.flops == pytest.approx([*[1e11] * 3, *[2e11] * 5], rel=0.02) and table.measured
    assert set(table.unique) == {10**6} and not table.decayed.any()
    assert len(table.curves) == 8 and all(np.all(np.diff(curve.flops) >= 0) for curve in table.curves)
    runs[1].workdir.write_summary({})
    with pytest.raises(UserError, match='no run of the sweep is done'):
        scaling.table(runs[:2])


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """A tiny experiment from end to end: bytes of made-up documents, two budgets, three sizes."""
    folder = tmp_path_factory.mktemp('scaling_laws')
    words = random.Random(0)
    for i in range(60):
        text = ' '.join(words.choice(('loss', 'of', 'a', 'model', 'falls', 'with', 'size')) for _ in range(60))
        (folder / f'{i}.txt').write_text(text)
    plan = Plan(
        budgets=(1.2e9, 2.4e9),
        sizes=3,
        widths=(8, 16, 24),
        least_steps=30,
        beyond=1.5,
        vocab_size=512,
        tokenizer='byte',
        sequence_length=16,
        batch_size=8,  # a row for each device of the tests
        corpora=(f'text:{folder}/*.txt',),
    )
    stages.run(folder / 'out', plan, 30, SweepOptions(progress=False))
    return folder / 'out', plan


@pytest.mark.slow
def test_all_of_it_on_a_tiny_corpus(done):
    out, plan = done
    runs = registry.open_sweep(out / 'sweep')
    assert [registry.status(run.workdir) for run in runs] == ['done'] * 6
    (larger,) = registry.open_sweep(out / 'held_out')
    results = json.loads((out / 'results.json').read_text())
    before = json.loads((out / 'prediction.json').read_text())  # written before the run was trained
    assert before['measured'] is None and results['prediction']['loss'] == before['loss']
    assert results['prediction']['measured'] == larger.workdir.summary()['held_out']['loss']
    table = scaling.table(runs)
    assert all(n > m for n, m in zip(*table.counts.values(), strict=True))
    vocabulary, widths = 512, [run.workdir.config().model.width for run in runs]
    gone = table.counts['with embeddings'] - table.counts['without embeddings']
    assert gone.tolist() == [vocabulary * width for width in widths]
    unique = runs[0].workdir.summary()['data']['train']['tokens']
    assert set(table.unique) == {unique} and (table.d > unique).any()
    assert any('more than once' in warning for warning in results['warnings'])
    assert len(table.curves) == 6 and all(curve.tokens[-1] <= d for curve, d in zip(table.curves, table.d, strict=True))


@pytest.mark.slow
def test_the_same_command_trains_nothing_again_and_says_the_same(done, capsys):
    out, plan = done
    before = (out / 'results.json').read_text(), [p.stat().st_mtime_ns for p in out.rglob('metrics.jsonl')]
    stages.run(out, plan, 30, SweepOptions(progress=False))
    stages.report(out, 30)
    after = (out / 'results.json').read_text(), [p.stat().st_mtime_ns for p in out.rglob('metrics.jsonl')]
    assert before[1] == after[1]
    drop = lambda text: {name: value for name, value in json.loads(text).items() if name != 'facts'}
    assert drop(before[0]) == drop(after[0])
