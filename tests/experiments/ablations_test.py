"""Every question as it is declared: its arms are valid, differ in what they say, and are equal in what they say."""

import dataclasses
import json
import pathlib
import random

import pytest

from experiments.ablations import __main__ as command
from llm import config_json
from llm.ablation import plan as ablation
from llm.analysis import memory
from llm.command_line import guarded
from llm.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[2]
ASKED = (
    *('position', 'norm', 'activation', 'heads', 'qk_norm', 'tied_embeddings', 'optimizer', 'schedule', 'shape'),
    *('tokenizer', 'document_masking', 'null'),
)


def test_the_questions_there_have_to_be_are_there():
    assert set(ASKED) <= set(command.names())


def test_experiments_are_short():
    files = [
        file
        for folder in ('ablations', 'scaling_laws', 'mup')
        for file in (REPOSITORY / 'experiments' / folder).glob('*.py')
    ]
    assert len(files) > len(ASKED)
    assert {file.name: lines for file in files if (lines := len(file.read_text().splitlines())) >= 150} == {}


@pytest.mark.parametrize('name', command.names())
def test_arms_are_valid_and_differ_from_the_base_in_what_they_say_and_nothing_else(name):
    question = command.load(name)
    assert question.question.endswith('?')
    arms = ablation.arm_configs(question)
    flat = config_json.flatten(question.base)
    for label, overrides in question.arms.items():
        said = {}
        for field, value in overrides.items():
            plain = config_json.to_dict(value) if dataclasses.is_dataclass(value) else value
            said |= {f'{field}.{key}': one for key, one in plain.items()} if isinstance(plain, dict) else {field: plain}
        changed = config_json.difference(question.base, arms[label])
        now = {field: after for field, (_, after) in changed.items() if after is not None}
        assert now == {field: value for field, value in said.items() if flat.get(field) != value}, label
        gone = {field for field, (_, after) in changed.items() if after is None}
        assert {field.split('.')[0] for field in gone} <= {field for field in overrides if '.' not in field}, label
    configs = [config_json.flatten(arm) for arm in arms.values()]
    if name != 'null':
        assert len({json.dumps(config) for config in configs}) == len(configs), 'two arms are the same'


@pytest.mark.parametrize('budget', ['tokens', 'flops'])
@pytest.mark.parametrize('name', command.names())
def test_arms_spend_the_same_within_a_step_and_end_their_schedules(name, budget):
    question = command.load(name)
    spent = ablation.cost(question.base, budget)
    for label, config in ablation.arm_configs(question, budget).items():
        step = ablation.cost(config, budget) / config.training.steps
        assert abs(ablation.cost(config, budget) - spent) <= step, label
        assert getattr(config.schedule, 'horizon', config.training.steps) == config.training.steps, label


def parameters(config, part=''):
    return sum(one.count for one in memory.parameter_table(config.model) if one.part.startswith(part))


@pytest.mark.parametrize(
    ('name', 'labels', 'part'),
    [
        ('shape', None, 'blocks'),
        ('activation', None, ''),
        ('heads', ('gqa, wider feed-forward', 'mqa, wider feed-forward'), ''),
        ('optimizer', None, ''),
        ('schedule', None, ''),
    ],
)
def test_what_is_to_have_equal_parameters_has_within_two_percent(name, labels, part):
    question = command.load(name)
    arms = ablation.arm_configs(question)
    for label in labels or question.arms:
        assert parameters(arms[label], part) == pytest.approx(parameters(question.base, part), rel=0.02), label


def test_the_tied_model_gets_the_parameters_that_the_untied_one_has():
    arms = ablation.arm_configs(command.load('tied_embeddings'))
    assert parameters(arms['tied, as many parameters']) == pytest.approx(parameters(arms['untied']), rel=0.02)
    assert parameters(arms['untied']) > 1.2 * parameters(arms['tied'])


def test_they_are_listed(capsys):
    command.main(['--list'])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == command.names()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['positon'], "there is no ablation 'positon'; choose one of activation"),
        ([], 'which ablation'),
        (['nowhere.py'], 'there is no config file nowhere.py'),
        (['null', '--set', 'model.width=32,64'], 'gives 2 values'),
        (['null', '--set', 'model.widht=32'], 'perhaps you meant model.width'),
        (['null', '--seed', '3'], 'seeds'),
    ],
)
def test_what_is_asked_for_wrongly_is_refused_in_a_line(arguments, message, capsys, tmp_path):
    assert guarded(lambda: command.main([*arguments, '--out', str(tmp_path / 'out')]), debug=False) == 2
    said = capsys.readouterr().err
    assert message in said and said.count('\n') == 1
    assert not (tmp_path / 'out').exists()


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Options that make the base a model of a second, on forty short files."""
    folder = tmp_path_factory.mktemp('ablation-corpus')
    draw = random.Random(0)
    for i in range(40):
        words = draw.choices(('def', 'return', 'class', 'self', 'value', 'open', 'read'), k=60)
        (folder / f'file{i}.txt').write_text(' '.join(words) + '\n')
    settings = {
        'model': {'vocab_size': 272, 'context_length': 16, 'num_layers': 1, 'width': 16, 'num_heads': 2},
        'tokenizer': {'kind': 'byte'},
        'data': {'corpora': [f'text:{folder}/*.txt'], 'sequence_length': 16},
        'schedule': {'horizon': 8, 'warmup': 1},
        'training': {'steps': 8, 'batch_size': 8},
        'evaluation': {'every': 4, 'max_windows': 8, 'batch_size': 8},
        'log': {'every': 1},
    }
    return [
        word
        for section, fields in settings.items()
        for field, value in fields.items()
        for word in ('--set', f'{section}.{field}={json.dumps(value)}')
    ]


@pytest.mark.slow
def test_where_there_is_nothing_to_find_nothing_is_found(tiny, tmp_path, capsys):
    """The whole way: runs, statistics, pages. The same command again trains nothing."""
    out = tmp_path / 'null'
    ask = ['null', '--seeds', '2', '--no-progress', '--out', str(out), *tiny]
    command.main([*ask, '--dry-run'])
    assert '6 runs' in capsys.readouterr().out and not out.exists()
    command.main(ask)
    said = capsys.readouterr().out
    assert 'same: not distinguishable: equal to the base to the last bit in all 2 seeds' in said
    assert 'other seeds: not distinguishable with these 2 seeds' in said
    stored = json.loads((out / 'results.json').read_text())
    hashes = {label: [run['params_sha256'] for run in runs] for label, runs in stored['runs'].items()}
    assert hashes['same'] == hashes['base'] and not set(hashes['other seeds']) & set(hashes['base'])
    times = {file: file.stat().st_mtime_ns for file in out.glob('runs/*/metrics.jsonl')}
    assert len(times) == 6
    command.main(ask)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    (out / 'report.html').unlink()
    command.main(['null', '--report', '--out', str(out)])
    assert capsys.readouterr().out.endswith('report.html\n') and (out / 'report.html').is_file()


def test_a_question_can_be_a_file_of_ones_own(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(
        'from experiments.ablations.base import BASE\nfrom llm.ablation.plan import Ablation\n'
        "ABLATION = Ablation('Mine?', BASE, {'wide': {'model.width': 128}})\n"
    )
    assert command.load(str(file)).question == 'Mine?'
    file.write_text('ABLATION = 1')
    with pytest.raises(UserError, match='ABLATION is a int'):
        command.load(str(file))
    file.write_text('')
    with pytest.raises(UserError, match='ABLATION'):
        command.load(str(file))
