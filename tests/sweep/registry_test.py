"""What a sweep's folder says, and that it says nothing but what its workdirs do."""

import csv
import dataclasses
import json

import pyarrow.parquet
import pytest

from llm.errors import UserError
from llm.sweep import registry, space
from llm.sweep.launchers import InProcess
from llm.sweep.scheduler import run_all


@pytest.fixture(scope='module')
def finished(small, tmp_path_factory):
    """A sweep of two learning rates that is done. Not to be written to."""
    folder = tmp_path_factory.mktemp('sweeps') / 'rates'
    runs = registry.create(folder, space.configs(small, space.axis('optimizer.learning_rate', 1e-2, 1e-3)))
    assert run_all(runs, [[run] for run in runs], InProcess(), progress=False) == {}
    return folder, runs


def test_rows_are_read_from_the_workdirs(finished):
    _, runs = finished
    first, second = registry.rows(runs)
    assert (first['name'], first['status'], first['step'], first['optimizer.learning_rate']) == (
        *('learning_rate=0.01', 'done', 8, 0.01),
    )
    assert second['optimizer.learning_rate'] == 0.001
    for run, row in zip(runs, (first, second), strict=True):
        summary = run.workdir.summary()
        assert row['held_out.loss'] == summary['held_out']['loss']
        assert row['tokens'] == summary['tokens'] and row['params_sha256'] == summary['params_sha256']
    assert 'model.width' not in first, 'what is equal everywhere is no column'
    assert first['held_out.loss'] != second['held_out.loss']


def test_the_table_is_the_same_as_csv_and_as_parquet(finished, tmp_path):
    _, runs = finished
    rows = registry.rows(runs)
    registry.export(rows, tmp_path)
    with open(tmp_path / 'table.csv') as file:
        from_csv = list(csv.DictReader(file))
    from_parquet = pyarrow.parquet.read_table(tmp_path / 'table.parquet').to_pylist()
    assert from_parquet == rows
    assert [row['held_out.loss'] for row in from_csv] == [str(row['held_out.loss']) for row in rows]


def test_columns_of_mixed_values_survive_parquet(tmp_path):
    rows = [{'a': 1, 'b': [1, 2], 'c': None, 'd': 1}, {'a': 0.5, 'b': None, 'c': 'x', 'd': 'y'}]
    registry.export(rows, tmp_path)
    assert pyarrow.parquet.read_table(tmp_path / 'table.parquet').to_pylist() == [
        {'a': 1.0, 'b': '[1, 2]', 'c': None, 'd': '1'},
        {'a': 0.5, 'b': None, 'c': 'x', 'd': 'y'},
    ]


def test_the_same_config_under_the_same_code_is_the_same_run(small, tmp_path, monkeypatch):
    config = space.configs(small, space.BASE)
    (run,) = registry.create(tmp_path, config)
    assert registry.create(tmp_path, config) == [run] == registry.open_sweep(tmp_path)
    other = {'base': dataclasses.replace(config['base'], seed=1)}
    assert registry.create(tmp_path, other)[0].key != run.key
    monkeypatch.setattr(registry, 'sources_hash', lambda: 'other code')
    assert registry.create(tmp_path, config)[0].key != run.key
    assert run.workdir.config() == config['base'], 'what was there stays'


def test_names_become_folders_that_every_file_system_takes(small):
    name = registry.folder_name('corpora=text:/a b/*.txt,' + 'x' * 200, small)
    assert len(name) < 100 and '/' not in name and ' ' not in name and '*' not in name
    assert registry.folder_name('a', small) != registry.folder_name('a', dataclasses.replace(small, seed=1))


def test_status_tells_running_from_killed(small, tmp_path):
    (run,) = registry.create(tmp_path, {'a': small})
    assert registry.status(run.workdir) == 'planned'
    with registry.claimed([run.workdir]):
        assert registry.status(run.workdir) == 'running'
    run.workdir.write_summary({'status': 'running', 'step': 3})
    assert registry.status(run.workdir) == 'interrupted'
    run.workdir.write_summary({'status': 'done', 'step': 3})
    assert registry.status(run.workdir) == 'interrupted', 'done with fewer steps than it now has'
    run.workdir.write_summary({'status': 'failed', 'step': 3})
    assert registry.status(run.workdir) == 'failed'


def test_a_run_is_claimed_once(small, tmp_path):
    a, b = registry.create(tmp_path, space.configs(small, space.seeds(2)))
    with registry.claimed([b.workdir]):
        with (
            pytest.raises(registry.Busy, match='another process is training'),
            registry.claimed([a.workdir, b.workdir]),
        ):
            pass
        assert not registry.is_claimed(a.workdir), 'all or none'


def test_failures_and_torn_lines_are_read_as_far_as_they_go(small, tmp_path):
    (run,) = registry.create(tmp_path, {'a': small})
    registry.note_failure(run, -9, 'killed', 1.0, ['last words'])
    with open(tmp_path / 'failures.jsonl', 'a') as file:
        file.write('{"run": "half')
    assert [f['code'] for f in registry.failures([run])[run.key]] == [-9]
    (row,) = registry.rows([run])
    assert (row['failures'], row['message']) == (1, 'killed')


def test_the_last_row_is_found_behind_a_torn_line(small, tmp_path):
    (run,) = registry.create(tmp_path, {'a': small})
    assert registry.last_row(run.workdir) == {}
    rows = [{'kind': 'train', 'step': i, 'loss': 1.0, 'filler': 'x' * 500} for i in range(100)]
    lines = [json.dumps(row) for row in [*rows, {'kind': 'event', 'step': 99}]]
    run.workdir.metrics_file.write_text('\n'.join(lines) + '\n{"kind": "train", "step": 100, "lo')
    assert registry.last_row(run.workdir)['step'] == 99


def test_a_folder_without_a_sweep_or_with_a_damaged_one_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match='holds no sweep'):
        registry.open_sweep(tmp_path)
    (tmp_path / 'sweep.json').write_text('{')
    with pytest.raises(UserError, match='is damaged'):
        registry.open_sweep(tmp_path)
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot make a sweep'):
        registry.create(tmp_path / 'file', {})
