"""`python -m llm sweep` as it is typed: what it would do, and what it refuses."""

import pytest

from llm.command_line import main
from llm.config_json import to_json


@pytest.fixture
def config_file(small, tmp_path):
    def write(space: str = ''):
        file = tmp_path / 'question.py'
        reading = f'from llm.config_json import from_json\nfrom llm.sweep import space\nCONFIG = {to_json(small)!r}\n'
        file.write_text(f'{reading}def get_config(): return from_json(CONFIG)\n{space}\n')
        return str(file)

    return write


def sweep(*arguments):
    return main(['sweep', *map(str, arguments)])


def test_a_dry_run_prints_the_runs_and_trains_nothing(config_file, tmp_path, capsys):
    space = "def get_space(): return space.axis('model.num_layers', 1, 2)"
    out = tmp_path / 'out'
    assert (
        sweep('--config', config_file(space), '--vary', 'optimizer.learning_rate=1e-2,1e-3', '--out', out, '--dry-run')
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.startswith('num_layers')]
    assert names == [f'num_layers={n},learning_rate={rate}' for n in (1, 2) for rate in (0.01, 0.001)]
    assert any(line.startswith('4 runs') for line in lines) and 'speed of one matrix product' in lines[-1]
    assert not out.exists()
    one, two = (next(line for line in lines if f'num_layers={n},' in line).split() for n in (1, 2))
    assert int(one[1].replace(',', '')) < int(two[1].replace(',', '')), 'parameters of each'


def test_the_base_is_set_as_in_any_command_and_time_is_predicted_from_what_is_done(config_file, tmp_path, capsys):
    out = tmp_path / 'out'
    typed = ('--config', config_file(), '--training.steps', 4, '--schedule.horizon', 4, '--no-progress', '--out', out)
    assert sweep(*typed, '--seeds', 2) == 0
    said = capsys.readouterr().out
    assert said.count(' done ') == 2 and (out / 'table.csv').is_file() and (out / 'sweep.html').is_file()
    assert sweep(*typed, '--seeds', 3, '--dry-run') == 0
    assert 'speed of the runs done here' in capsys.readouterr().out


def test_a_sweep_that_fails_by_its_configs_is_the_users_mistake_and_still_leaves_a_table(config_file, tmp_path, capsys):
    out = tmp_path / 'out'
    assert sweep('--config', config_file(), '--data.corpora', 'text:/nowhere/*', '--no-progress', '--out', out) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: 1 of 1 runs failed; base: ') and '/nowhere' in error
    assert (out / 'table.csv').is_file() and (out / 'sweep.html').is_file()


@pytest.mark.parametrize(
    ('typed', 'said'),
    [
        (
            ['--vary', 'model.widht=1,2'],
            'run widht=1: the config has no field model.widht; perhaps you meant model.width',
        ),
        (['--vary', 'model.width=wide'], "model.width is 'wide'; it must be a whole number"),
        (['--vary', 'model.width'], "'model.width' is no axis of a sweep; write FIELD=VALUE,VALUE,..."),
        (['--vary', 'seed=1,1'], 'the sweep has two runs named seed=1'),
        (['--vary', 'seed=1,2', '--seeds', '2'], 'seed is set twice'),
        (['--jobs', '0'], 'jobs is 0; it must be at least 1'),
        (['--seeds', '-1'], '--seeds is -1'),
        (['--launcher', 'mars'], 'launcher'),
        ([], 'out'),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_started(typed, said, config_file, tmp_path, capsys):
    out = ['--out', tmp_path / 'out'] if typed else []
    assert sweep('--config', config_file(), *typed, *out) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith('error: ') and said in error and len(error.splitlines()) == 1
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('space', 'said'),
    [
        ("def get_space(): return ['model.width']", 'get_space() returns a list; it must return a Space'),
        ("def get_space(): return space.axis('model.width')", 'the sweep gives model.width no value'),
        ('def get_space(): return 1 / 0', 'division by zero'),
    ],
)
def test_a_space_that_is_none_names_the_file(space, said, config_file, tmp_path, capsys):
    file = config_file(space)
    assert sweep('--config', file, '--out', tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert file in error and said in error
