"""Runs trained together are the runs trained alone: curves, workdirs, resumption, and who diverges."""

import os
import pathlib
import signal

import jax
import jax.monitoring
import numpy as np
import pytest
from small_corpus import write_corpus
from training.crash import Crash, crash_at

from llm import config_json
from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    Constant,
    DataConfig,
    DivergenceConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.errors import Interrupted, MachineError
from llm.sweep import population, registry, space
from llm.training import divergence, together
from llm.training.attempt import Attempt
from llm.training.checkpoint import Checkpoints, load_params
from llm.training.loop import train
from llm.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[2]
GRID = space.product(space.axis('optimizer.learning_rate', 1e-3, 3e-3), space.seeds(2))


@pytest.fixture(scope='module')
def base(tmp_path_factory) -> Config:
    """Fifty steps of a model that learns a corpus of a few kilobytes."""
    corpus = write_corpus(tmp_path_factory.mktemp('corpus'))
    return Config(
        model=ModelConfig(vocab_size=272, context_length=32, num_layers=2, width=16, num_heads=2),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(corpora=(corpus,), sequence_length=32),
        optimizer=AdamW(),
        schedule=Constant(warmup=10),
        training=TrainingConfig(steps=50, batch_size=4, ema_decay=0.9),
        divergence=DivergenceConfig(window=5, max_rollbacks=1),
        checkpoint=CheckpointConfig(every=20),
        evaluation=EvaluationConfig(every=25, max_windows=8, batch_size=8, sample_tokens=0),
        log=LogConfig(every=1, tensorboard=False),
    )


@pytest.fixture(scope='module')
def one_device():
    return jax.devices()[:1]


def planned(folder, base, points=GRID) -> list[pathlib.Path]:
    return [run.workdir.path for run in registry.create(folder, space.configs(base, points))]


def together_then_alone(paths, devices):
    """What a worker does."""
    population.train_population(paths, progress=False, devices=devices)
    for path in paths:
        train(Workdir(path).config(), path, progress=False, devices=devices)


def curve(path, name='loss'):
    return {row['step']: row[name] for row in Workdir(path).rows('train')}


def largest_difference(left, right) -> float:
    """Between two runs: of any logged loss, and of any final parameter."""
    losses, others = curve(left), curve(right)
    assert losses.keys() == others.keys()
    params, theirs = (jax.tree.leaves(load_params(Workdir(path))[1]) for path in (left, right))
    apart = [np.max(np.abs(a - b)) for a, b in zip(params, theirs, strict=True)]
    return max(*(abs(losses[step] - others[step]) for step in losses), *map(float, apart))


@pytest.fixture(scope='module')
def alone(base, one_device, tmp_path_factory):
    """The four runs, one after the other."""
    paths = planned(tmp_path_factory.mktemp('alone'), base)
    for path in paths:
        train(Workdir(path).config(), path, progress=False, devices=one_device)
    return paths


@pytest.fixture(scope='module')
def trained(base, one_device, alone, tmp_path_factory):
    """The four runs together, and alone."""
    many = planned(tmp_path_factory.mktemp('many'), base)
    population.train_population(many, progress=False, devices=one_device)
    return many, alone


@pytest.fixture
def at_once(monkeypatch):
    """Lanes as they are computed on an accelerator."""
    monkeypatch.setattr(together, 'lanes_at_once', lambda: True)


def test_every_member_is_the_run_alone(trained):
    for many, alone in zip(*trained, strict=True):
        assert len(curve(many)) == 50
        assert largest_difference(many, alone) <= 1e-5
        assert curve(many)[50] < curve(many)[1] - 0.5  # it learned something on the way
    assert largest_difference(trained[0][0], trained[0][1]) > 1e-3, 'members are all alike'


NUMBERS = space.zipped(
    space.axis('optimizer.learning_rate', 1e-3, 2e-3, 3e-3, 4e-3),
    space.axis('optimizer.weight_decay', 0.0, 0.1, 0.2, 0.3),
    space.axis('optimizer.b1', 0.9, 0.8, 0.85, 0.95),
    space.axis('optimizer.epsilon', 1e-8, 1e-7, 1e-6, 1e-8),
    space.axis('objective.z_loss', 0.0, 1e-4, 1e-3, 0.0),
    space.axis('objective.label_smoothing', 0.0, 0.1, 0.0, 0.2),
    space.axis('training.clip_norm', 1.0, 0.5, 0.1, 1.0),
    space.axis('training.ema_decay', 0.9, 0.99, 0.5, 0.9),
    space.seeds(4),
)


@pytest.mark.slow
def test_vmapped_members_are_the_runs_alone(at_once, base, alone, one_device, tmp_path):
    """Two read one batch, so that it has no axis of lanes; then four read two."""
    for points in (GRID[::2], GRID):
        paths = planned(tmp_path / str(len(points)), base, points)
        population.train_population(paths, progress=False, devices=one_device)
        for path, other in zip(paths, alone[:: len(GRID) // len(points)], strict=True):
            assert largest_difference(path, other) <= 1e-5


@pytest.mark.slow
def test_in_float64_they_agree_to_the_last_digits(at_once, base, one_device, tmp_path):
    """Every number there is varied, and dropout drawn from each member's seed."""
    wide = dict.fromkeys(('model.param_dtype', 'model.compute_dtype', 'model.logit_dtype'), 'float64')
    config = config_json.override(base, wide | {'model.dropout': 0.1})
    with jax.enable_x64(True):
        many, alone = (planned(tmp_path / name, config, NUMBERS) for name in ('many', 'alone'))
        population.train_population(many, progress=False, devices=one_device)
        for path in alone[::3]:
            train(Workdir(path).config(), path, progress=False, devices=one_device)
        for left, right in zip(many[::3], alone[::3], strict=True):
            assert jax.tree.leaves(load_params(Workdir(left))[1])[0].dtype == np.float64
            assert largest_difference(left, right) <= 1e-8


def test_a_member_leaves_what_a_run_alone_leaves(trained):
    for many, alone in zip(*trained, strict=True):
        files = [{p.relative_to(path).as_posix() for p in path.rglob('*') if p.is_file()} for path in (many, alone)]
        ours, its = ({name for name in some if 'ocdbt' not in name and '/d/' not in name} for some in files)
        assert ours == its
        ours, its = Workdir(many), Workdir(alone)
        assert ours.config() == its.config()
        assert ours.runtime() == its.runtime() | {'population': 4}
        assert ours.summary().keys() == its.summary().keys() and ours.summary()['status'] == 'done'
        assert [(row['kind'], row['step']) for row in ours.rows()] == [(row['kind'], row['step']) for row in its.rows()]
        for row, other in zip(ours.rows('evaluation'), its.rows('evaluation'), strict=True):
            assert row['loss'] == pytest.approx(other['loss'], abs=1e-5)
        assert Checkpoints(ours.checkpoints).steps() == Checkpoints(its.checkpoints).steps()
        for name in ('tokens', 'flops', 'parameters', 'config_hash'):
            assert ours.summary()[name] == its.summary()[name]


def test_the_time_of_the_devices_is_divided_among_members(trained):
    seconds = [Workdir(path).summary()['seconds'] for path in trained[0]]
    assert max(seconds) < 1.5 * min(seconds)
    shares = [Workdir(path).rows('train')[-1]['tokens_per_second'] for path in trained[0]]
    assert min(shares) > 0


def same_to_the_bit(left, right) -> bool:
    hashes = [Workdir(path).summary()['params_sha256'] for path in (left, right)]
    return hashes[0] == hashes[1] and curve(left) == curve(right) and curve(left, 'tokens') == curve(right, 'tokens')


@pytest.mark.parametrize('step', [33, pytest.param(50, marks=pytest.mark.slow)])
def test_goes_on_to_the_bit_wherever_it_died(trained, base, one_device, tmp_path, monkeypatch, step):
    paths = planned(tmp_path, base)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            population.train_population(paths, progress=False, devices=one_device)
    together_then_alone(paths, one_device)
    for path, whole in zip(paths, trained[0], strict=True):
        assert same_to_the_bit(path, whole)


@pytest.mark.slow
def test_dying_while_summaries_are_written_loses_nothing(trained, base, one_device, tmp_path, monkeypatch):
    """None is called done before all have their last checkpoint, so none makes its last steps in another company."""
    paths, finish = planned(tmp_path, base), Attempt.finish
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, 'finish', lambda run: dies() if run.workdir.path == paths[2] else finish(run))
        with pytest.raises(Crash):
            population.train_population(paths, progress=False, devices=one_device)
    assert [Workdir(path).summary()['status'] for path in paths] == ['done', 'done', 'running', 'running']
    assert Checkpoints(Workdir(paths[3]).checkpoints).steps()[-1] == 50
    together_then_alone(paths, one_device)
    for path, whole in zip(paths, trained[0], strict=True):
        assert same_to_the_bit(path, whole)


def dies():
    raise Crash


@pytest.mark.slow
@pytest.mark.parametrize(
    'number, behind', [(signal.SIGINT, [1, 3]), pytest.param(signal.SIGTERM, [], marks=pytest.mark.slow)]
)
def test_a_signal_saves_all(trained, base, one_device, tmp_path, monkeypatch, number, behind):
    """Then any can go on alone, with the command that trains a run; the others go on together without it."""
    paths = planned(tmp_path, base)
    poll = together._Together._poll

    def interrupting(self):
        if self._filled[0].step == 30:
            os.kill(os.getpid(), number)
        return poll(self)

    with monkeypatch.context() as patch:
        patch.setattr(together._Together, '_poll', interrupting)
        with pytest.raises(Interrupted) as stopped:
            population.train_population(paths, progress=False, devices=one_device)
    assert stopped.value.exit_code == 128 + number
    for path in paths:
        assert Workdir(path).summary()['status'] == 'interrupted'
        assert Checkpoints(Workdir(path).checkpoints).steps() == [20, 31]
    train(Workdir(paths[0]).config(), paths[0], progress=False, devices=one_device)
    assert largest_difference(paths[0], trained[1][0]) <= 1e-5
    for i in behind:  # as if these had not come so far: all go back to the step that they have in common
        Checkpoints(Workdir(paths[i]).checkpoints).delete(31)
    population.train_population(paths, progress=False, devices=one_device)
    for path, whole in zip(paths[1:], trained[0][1:], strict=True):
        assert same_to_the_bit(path, whole)
        messages = ' '.join(row['message'] for row in Workdir(path).rows('event'))
        assert f'resumed at step {20 if behind else 31}' in messages


def test_who_diverges_hurts_nobody_and_fails_alone(trained, base, one_device, tmp_path, monkeypatch):
    """The fourth member's learning rate is not of this world; the others are those of `trained`."""
    monkeypatch.setattr(divergence, 'diagnose', lambda *args: 'as it had to')  # which takes long
    points = (*GRID[:3], *space.product(space.axis('optimizer.learning_rate', 1e30), space.seeds(1, first=1)))
    paths = planned(tmp_path, base, points)
    with pytest.raises(MachineError, match='gave up after 1 rollbacks'):
        together_then_alone(paths, one_device)
    for path, whole in zip(paths[:3], trained[0], strict=False):
        assert Workdir(path).summary()['status'] == 'done' and same_to_the_bit(path, whole)
    events = [row['event'] for row in Workdir(paths[3]).rows('event')]
    assert events.count('left') == 1 and events.count('rollback') == 1
    assert Workdir(paths[3]).summary()['status'] == 'failed'


def test_who_meets_a_bad_batch_leaves_it_out_alone(trained, base, one_device, tmp_path, monkeypatch):
    paths = planned(tmp_path, base)
    step = together._Together._wait_for

    def poisoned(self, batches):
        """The batch of the second lane at step 30 has a weight that is no number; alone, the run never meets it."""
        batch = step(self, batches)
        if self._filled[0].step == 29:
            batch['loss_weights'] = batch['loss_weights'].at[1].set(np.nan)
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(together._Together, '_wait_for', poisoned)
        population.train_population(paths, progress=False, devices=one_device)
    assert [Workdir(path).summary()['status'] for path in paths] == ['done', 'interrupted', 'done', 'done']
    (left,) = [row for row in Workdir(paths[1]).rows('event') if row['event'] == 'left']
    assert 'the loss is nan at step 30' in left['message']
    together_then_alone(paths, one_device)
    for i in (0, 2, 3):
        assert same_to_the_bit(paths[i], trained[0][i])
    assert largest_difference(paths[1], trained[1][1]) <= 1e-5


def test_runs_that_differ_in_numbers_compile_once(base, alone, one_device, tmp_path):
    """In one process, one after the other: counted by jax itself, and none after those of `alone`."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name.endswith('backend_compile_duration') else None
    )
    counts = []
    for path in planned(tmp_path, base, NUMBERS[1:3]):
        before = len(compiled)
        train(Workdir(path).config(), path, progress=False, devices=one_device)
        counts.append(len(compiled) - before)
    assert counts == [0, 0]
    jax.jit(lambda x: x + len(counts))(1.0)
    assert len(compiled) > sum(counts), 'nothing is counted'
