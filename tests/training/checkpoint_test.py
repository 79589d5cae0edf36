"""Checkpoints: what is kept, and that damage is never restored silently."""

import dataclasses
import logging
import shutil

import jax
import pytest

from llm import config_json, runtime
from llm.config import CheckpointConfig
from llm.errors import MachineError, UserError
from llm.training.checkpoint import MANIFEST, Checkpoints, load_params, params_sha256
from llm.training.loop import train
from llm.training.train_state import create_state
from llm.workdir import Workdir


@pytest.fixture
def copied(finished, tmp_path):
    """A finished run that may be damaged."""
    shutil.copytree(finished[0], tmp_path / 'run')
    return Workdir(tmp_path / 'run')


def largest_file(folder):
    return max((p for p in folder.rglob('*') if p.is_file() and p.name != MANIFEST), key=lambda p: p.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def unlink(path):
    path.unlink()


@pytest.mark.parametrize('damage', [flip, truncate, unlink])
def test_damage_is_noticed_and_the_newest_good_one_taken(copied, caplog, damage):
    damage(largest_file(copied.checkpoints / '12' / 'params'))
    with caplog.at_level(logging.WARNING):
        step, _ = load_params(copied)
    assert step == 8
    assert 'checkpoint 12 is damaged' in caplog.text
    with pytest.raises(UserError, match=r'checkpoint 12 .* is damaged'):
        load_params(copied, step=12)


@pytest.mark.parametrize('damage', [flip, truncate, unlink])
def test_a_damaged_manifest_counts_as_damage(copied, damage):
    damage(copied.checkpoints / '12' / MANIFEST)
    assert load_params(copied)[0] == 8


def test_training_goes_on_from_before_the_damage_to_the_same_end(copied, finished, tiny, one_device):
    flip(largest_file(copied.checkpoints / '12'))
    copied.write_summary({'status': 'running'})
    again = train(tiny, copied.path, progress=False, devices=one_device)
    assert again['params_sha256'] == finished[1]['params_sha256']


def test_nothing_good_left_is_an_error(copied, tiny, one_device):
    longer = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, steps=13))
    for step in Checkpoints(copied.checkpoints).steps():
        flip(largest_file(copied.checkpoints / str(step)))
    with pytest.raises(UserError, match='every checkpoint'):
        load_params(copied)
    with pytest.raises(UserError, match='every checkpoint'):
        train(longer, copied.path, progress=False, devices=one_device)


def test_a_checkpoint_without_a_manifest_does_not_count(copied):
    (copied.checkpoints / '12' / MANIFEST).unlink()
    checkpoints = Checkpoints(copied.checkpoints)
    assert checkpoints.steps() == [8]
    checkpoints.delete_unfinished()
    assert not (copied.checkpoints / '12').exists()


def test_unknown_steps_are_named(copied):
    with pytest.raises(UserError, match='no checkpoint 11; it has 8, 12'):
        load_params(copied, step=11)


@pytest.mark.parametrize(
    'keep, expected',
    [
        (CheckpointConfig(keep_last=2, keep_best=False), [4, 5]),
        (CheckpointConfig(keep_last=1, keep_every=2, keep_best=False), [0, 2, 4, 5]),
        (CheckpointConfig(keep_last=1, keep_best=True), [3, 5]),
    ],
)
def test_keeps_the_last_every_mth_and_the_best(tiny, tmp_path, keep, expected):
    state = jax.jit(lambda: create_state(tiny, 0))()
    checkpoints = Checkpoints(Workdir(tmp_path).checkpoints)
    losses = [None, 3.0, 2.5, 2.0, 2.2, None]
    for step, loss in enumerate(losses):
        checkpoints.save(step, state.stored(), {'held_out_loss': loss}, keep)
    checkpoints.finish(keep)
    assert checkpoints.steps() == expected
    checkpoints.close()


def test_the_hash_sees_every_bit_and_every_name():
    params = {'a': {'kernel': jax.numpy.ones((2, 2))}, 'b': {'bias': jax.numpy.zeros(2)}}
    changed = {'a': {'kernel': jax.numpy.ones((2, 2)).at[1, 1].set(1.0000001)}, 'b': params['b']}
    renamed = {'a': {'weights': params['a']['kernel']}, 'b': params['b']}
    assert len({params_sha256(tree) for tree in (params, changed, renamed)}) == 3


def test_averaged_parameters_load_beside_the_raw_ones(finished):
    workdir = Workdir(finished[0])
    assert params_sha256(load_params(workdir, ema=True)[1]) != params_sha256(load_params(workdir)[1])


def test_averages_that_were_not_kept_are_an_error(copied):
    config = copied.config()
    copied.write_config(dataclasses.replace(config, training=dataclasses.replace(config.training, ema_decay=None)))
    with pytest.raises(UserError, match='no averaged parameters'):
        load_params(copied, ema=True)


def test_reading_leaves_what_is_being_written_alone(copied):
    """A checkpoint in flight is a temporary folder of Orbax's; only the trainer may clean up."""
    in_flight = copied.checkpoints / '16.orbax-checkpoint-tmp'
    in_flight.mkdir()
    assert load_params(copied)[0] == 12
    assert in_flight.exists()
    Checkpoints(copied.checkpoints).delete_unfinished()
    assert not in_flight.exists()


def test_an_old_damaged_manifest_does_not_stop_the_run(copied, tiny, one_device):
    (copied.checkpoints / '8' / MANIFEST).write_text('{')
    longer = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, steps=13))
    assert train(longer, copied.path, progress=False, devices=one_device)['step'] == 13


def test_a_checkpoint_carries_its_config(finished):
    record = Checkpoints(Workdir(finished[0]).checkpoints).record(12)
    assert config_json.from_dict(record['config']) == runtime.stored_config(Workdir(finished[0]))


def test_a_full_disk_is_said_before_anything_is_written(tiny, one_device, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    with pytest.raises(MachineError, match='no space left for checkpoint 0'):
        train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert Workdir(tmp_path / 'run').summary()['status'] == 'failed'
    assert list((tmp_path / 'run' / 'checkpoints').iterdir()) == []
    monkeypatch.undo()
    assert train(tiny, tmp_path / 'run', progress=False, devices=one_device)['status'] == 'done'
