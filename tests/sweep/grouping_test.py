"""Which runs of a sweep are trained together: a table of sweeps and of how far their runs are."""

import dataclasses
import json

import jax
import pytest

from llm import config_json
from llm.analysis import flops
from llm.analysis.step_memory import abstract_step
from llm.config import SFT, Adafactor, Config, DataConfig, Lion, ModelConfig, Muon, NextToken, TrainingConfig
from llm.sweep import grouping, registry, space
from llm.sweep.grouping import groups
from llm.training.train_step import make_train_step, static

SMALL = Config(
    model=ModelConfig(vocab_size=64, context_length=8, num_layers=1, width=16, num_heads=2),
    data=DataConfig(sequence_length=8),
    training=TrainingConfig(steps=40, batch_size=4, ema_decay=0.9),
)
RATES = space.axis('optimizer.learning_rate', 1e-3, 2e-3)


@pytest.fixture(autouse=True)
def processors_only(monkeypatch):
    monkeypatch.setattr(grouping, '_accelerated', lambda: False)


def sizes(tmp_path, points, base=SMALL, **options):
    runs = registry.create(tmp_path, space.configs(base, points))
    jobs = groups(runs, **options)
    assert sorted(run.name for job in jobs for run in job) == sorted(run.name for run in runs)
    return [len(job) for job in jobs]


@pytest.mark.parametrize(
    'points, expected',
    [
        (space.product(RATES, space.seeds(3)), [6]),
        (space.axis('optimizer.weight_decay', 0.0, 0.1), [2]),
        (space.axis('objective.z_loss', 0.0, 1e-4), [2]),
        (space.axis('training.clip_norm', 1.0, 0.5, None), [2, 1]),  # whether there is one is no number
        (space.axis('training.ema_decay', 0.9, 0.99, None), [2, 1]),
        (space.axis('training.steps', 40, 50), [1, 1]),
        (space.axis('schedule.warmup', 5, 6), [1, 1]),
        (space.axis('training.batch_size', 4, 8), [1, 1]),
        (space.axis('optimizer', 'adamw', 'lion'), [1, 1]),
        (space.axis('model.dropout', 0.1, 0.2), [1, 1]),
        (space.product(space.axis('model.width', 16, 32), space.seeds(2)), [2, 2]),
        (space.product(space.seeds(2), space.axis('model.width', 16, 32)), [2, 2]),  # whatever their order
        (space.axis('parallel.fsdp', 1, 2), [1, 1]),
        (space.product(space.axis('parallel.fsdp', 2), space.seeds(2)), [1, 1]),
        (space.product(space.axis('lora.rank', 4), space.seeds(2)), [1, 1]),
        (space.product(space.axis('objective', 'sft'), space.seeds(2)), [1, 1]),
    ],
)
def test_what_differs_in_numbers_is_together(tmp_path, points, expected):
    assert sizes(tmp_path, points) == expected
    assert sizes(tmp_path, points, mode='off') == [1] * len(points)


@pytest.mark.parametrize(
    'count, slots, expected',
    [(5, 1, [5]), (5, 2, [2, 3]), (3, 4, [1, 1, 1]), (40, 1, [20, 20]), (33, 1, [16, 17])],
)
def test_populations_are_cut_for_the_slots_and_for_their_size(tmp_path, count, slots, expected):
    assert sizes(tmp_path, space.seeds(count), slots=slots) == expected


def test_auto_is_for_short_runs_in_processes_of_their_own_where_there_is_no_accelerator(tmp_path, monkeypatch):
    large = config_json.override(SMALL, {'training.batch_size': 512, 'model.width': 256, 'training.steps': 4000})
    assert flops.run_flops(SMALL) < grouping.RUN_FLOPS < flops.run_flops(large)
    assert sizes(tmp_path, space.seeds(2), SMALL, mode='auto') == [2]
    assert sizes(tmp_path, space.seeds(2), SMALL, mode='auto', processes=False) == [1, 1]
    assert sizes(tmp_path, space.seeds(2), SMALL, mode='on', processes=False) == [2]
    assert sizes(tmp_path, space.seeds(2), large, mode='auto') == [1, 1]
    assert sizes(tmp_path, space.seeds(2), large, mode='on') == [2]
    monkeypatch.setattr(grouping, '_accelerated', lambda: True)
    assert sizes(tmp_path, space.seeds(2), large, mode='auto') == [2]


def test_a_population_fits_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(grouping, '_memory', lambda: 2**21)
    assert 1 < grouping.most(SMALL) < 9
    assert max(sizes(tmp_path, space.seeds(9))) <= grouping.most(SMALL)
    monkeypatch.setattr(grouping, '_memory', lambda: 2**10)
    assert sizes(tmp_path, space.seeds(3)) == [1, 1, 1]


def stands(run, steps=(), lanes=None, left=False, status=None):
    """Makes a run look as if it had got so far."""
    for step in steps:
        folder = run.workdir.checkpoints / str(step)
        folder.mkdir(parents=True)
        (folder / 'manifest.json').write_text('{}')
    if steps:
        run.workdir.write_runtime({'population': lanes} if lanes else {'device_kind': 'cpu'})
    if left:
        row = {'kind': 'event', 'step': 3, 'attempt': 1, 'event': 'left', 'message': ''}
        run.workdir.metrics_file.write_text(json.dumps(row) + '\n')
    if status:
        run.workdir.write_summary({'status': status, 'step': 40, 'message': ''})


@pytest.mark.parametrize(
    'standing, expected',
    [
        ([{}] * 4, [[0, 1, 2, 3]]),
        ([{'status': 'done', 'steps': (40,)}, {}, {}, {}], [[0], [1, 2, 3]]),
        ([{'steps': (0,), 'lanes': 4}, {}, {}, {}], [[0, 1, 2, 3]]),  # killed as it began
        ([{'steps': (0, 20), 'lanes': 4}] * 3 + [{'steps': (0,), 'lanes': 4}], [[0, 1, 2, 3]]),  # and as it first saved
        ([{'steps': (20, 30), 'lanes': 4}] * 4, [[0, 1, 2, 3]]),
        ([{'steps': (20, 30), 'lanes': 4}, {'steps': (20,), 'lanes': 4}] * 2, [[0, 1, 2, 3]]),
        ([{'steps': (10, 20), 'lanes': 4}, *[{'steps': (30, 39), 'lanes': 4}] * 3], [[0], [1, 2, 3]]),
        ([{'steps': (20,), 'lanes': 4, 'left': True}, *[{'steps': (20,), 'lanes': 4}] * 3], [[0], [1, 2, 3]]),
        ([{'steps': (20,)}, *[{'steps': (20,), 'lanes': 3}] * 3], [[0], [1, 2, 3]]),  # began alone
        ([{'steps': (20,), 'lanes': 2}] * 4, [[0, 1], [2, 3]]),
        ([{'steps': (20,), 'lanes': 2}] * 2 + [{}] * 2, [[0, 1], [2, 3]]),
    ],
)
def test_runs_that_have_begun_go_on_with_those_they_began_with(tmp_path, standing, expected):
    runs = registry.create(tmp_path, space.configs(SMALL, space.seeds(4)))
    for run, how in zip(runs, standing, strict=True):
        stands(run, **how)
    assert [[runs.index(run) for run in job] for job in groups(runs)] == expected


CASES = [
    SMALL,
    dataclasses.replace(SMALL, optimizer=Muon()),
    dataclasses.replace(SMALL, optimizer=Lion(), training=dataclasses.replace(SMALL.training, clip_norm=None)),
    dataclasses.replace(SMALL, optimizer=Adafactor(), objective=NextToken(z_loss=1e-3), seed=3),
    dataclasses.replace(SMALL, objective=SFT(label_smoothing=0.1), name='other'),
]


@pytest.mark.parametrize('config', CASES, ids=lambda config: f'{config.optimizer.kind} {config.objective.kind}')
def test_what_static_leaves_out_is_no_part_of_the_program(config):
    """The step of a config with every such number changed is traced to the same operations and constants."""
    one = static(config)
    numbers = {
        name: value * 0.5
        for name, value in config_json.flatten(config).items()
        if isinstance(value, float) and name.split('.')[0] in ('optimizer', 'objective', 'training')
    }
    other = config_json.override(config, numbers | {'seed': 11, 'data.seed': 12, 'name': 'changed'})
    assert other != config and static(other) == one
    traced = [str(trace(config)), str(trace(other)), str(trace(one))]
    assert traced[0] == traced[1] == traced[2]


def trace(config):
    step = abstract_step(config)
    return jax.make_jaxpr(make_train_step(config))(step.state, step.batch, step.hyper)


@pytest.mark.parametrize(
    'change',
    [{'model.norm_epsilon': 1e-5}, {'schedule.final_fraction': 0.2}, {'training.clip_norm': None}, {'log.every': 3}],
)
def test_static_keeps_what_is_no_argument_of_the_step(change):
    assert static(config_json.override(SMALL, change)) != static(SMALL)
