"""SFT, DPO, reward models and adapters in the loop: what they start from, what they keep, and what a crash costs."""

import dataclasses
import json
import math
import random

import jax
import numpy as np
import pytest
from training.crash import Crash, crash_at

from llm.config import (
    DPO,
    SFT,
    AdamW,
    CheckpointConfig,
    Config,
    Constant,
    DataConfig,
    DivergenceConfig,
    EvaluationConfig,
    InitFromConfig,
    LogConfig,
    LoRAConfig,
    ModelConfig,
    RewardModel,
    TokenizerConfig,
    TrainingConfig,
)
from llm.errors import MachineError, UserError
from llm.training import reference
from llm.training.checkpoint import load_frozen, load_params, params_sha256
from llm.training.evaluate import evaluate_checkpoint
from llm.training.ledger import Ledger
from llm.training.loop import train
from llm.training.merge import merge
from llm.training.train_state import placed_state
from llm.tree import named_leaves
from llm.workdir import Workdir

WORDS = ('cat', 'dog', 'sun', 'tree', 'red', 'blue')


def row(draw):
    first, second = draw.sample(WORDS, 2)
    ask = lambda answer: [{'role': 'assistant', 'content': answer}]
    prompt = [{'role': 'user', 'content': f'join {first} {second} {draw.randint(0, 9999)}'}]
    return prompt, ask(f'{first}-{second}'), ask(f'{second} {first}')


@pytest.fixture(scope='session')
def files(tmp_path_factory):
    """Conversations and preferences, as users have them."""
    folder, draw = tmp_path_factory.mktemp('rows'), random.Random(0)
    with open(folder / 'sft.jsonl', 'w') as sft, open(folder / 'pairs.jsonl', 'w') as pairs:
        for _ in range(160):
            prompt, good, bad = row(draw)
            sft.write(json.dumps({'messages': prompt + good}) + '\n')
            pairs.write(json.dumps({'prompt': prompt, 'chosen': good, 'rejected': bad}) + '\n')
    return folder


@pytest.fixture(scope='session')
def base(files):
    """The config of the first stage: SFT from the seed."""
    return Config(
        model=ModelConfig(vocab_size=272, context_length=48, num_layers=2, width=32, num_heads=2),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(corpora=(f'jsonl:{files}/sft.jsonl',), sequence_length=48),
        objective=SFT(),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=Constant(warmup=2),
        training=TrainingConfig(steps=8, batch_size=8),
        checkpoint=CheckpointConfig(every=4),
        evaluation=EvaluationConfig(every=4, max_windows=8, batch_size=8, sample_tokens=4),
        log=LogConfig(every=1, tensorboard=False),
    )


@pytest.fixture(scope='session')
def tuned(base, one_device, tmp_path_factory):
    """The workdir of the first stage. Not to be written to."""
    path = tmp_path_factory.mktemp('tuned') / 'run'
    train(base, path, progress=False, devices=one_device)
    return path


@pytest.fixture(scope='session')
def stages(base, files, tuned):
    """The second stages, each from the first."""
    after = dataclasses.replace(base, init_from=InitFromConfig(workdir=str(tuned)), optimizer=AdamW(learning_rate=1e-3))
    pairs = dataclasses.replace(base.data, corpora=(f'jsonl:{files}/pairs.jsonl',))
    return {
        'sft': after,
        'dpo': dataclasses.replace(after, objective=DPO(), data=pairs),
        'reward_model': dataclasses.replace(after, objective=RewardModel(), data=pairs),
        'lora': dataclasses.replace(after, lora=LoRAConfig(rank=2)),
        'dpo with lora': dataclasses.replace(after, objective=DPO(), data=pairs, lora=LoRAConfig(rank=2)),
    }


def rows(path, kind='train'):
    return Workdir(path).rows(kind)


SLOW_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ('sft', 'dpo', 'reward_model')]


@pytest.mark.parametrize('kind', [*SLOW_KINDS, 'dpo with lora'])
def test_a_crash_costs_nothing(kind, stages, one_device, tmp_path, monkeypatch):
    """Every loss, gradient norm and count, and the last bit of every parameter, are those of a run left alone."""
    whole = train(stages[kind], tmp_path / 'whole', progress=False, devices=one_device)
    with monkeypatch.context() as patch:
        crash_at(patch, 6)
        with pytest.raises(Crash):
            train(stages[kind], tmp_path / 'cut', progress=False, devices=one_device)
    resumed = train(stages[kind], tmp_path / 'cut', progress=False, devices=one_device)
    assert resumed['params_sha256'] == whole['params_sha256']
    assert resumed['held_out'] == whole['held_out']
    see = lambda path: [(r['step'], r['loss'], r['grad_norm'], r['tokens']) for r in rows(path)]
    assert see(tmp_path / 'cut') == see(tmp_path / 'whole')
    first, last = rows(tmp_path / 'whole')[0], rows(tmp_path / 'whole')[-1]
    assert last['loss'] < first['loss']
    if kind.startswith('dpo'):
        assert first['loss'] == pytest.approx(math.log(2), abs=1e-5)
        assert first['rewards/margins'] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_the_reference_is_read_once_and_kept(stages, one_device, tmp_path, monkeypatch):
    """A second start finds it; a damaged file is noticed, and made again from the same parameters."""
    calls = []
    measure = reference._measure
    monkeypatch.setattr(reference, '_measure', lambda *args: calls.append(args[-1]) or measure(*args))
    config = stages['dpo']
    short = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=4))
    path = tmp_path / 'run'
    train(short, path, progress=False, devices=one_device)
    assert calls == ['train', 'held_out']
    file = Workdir(path).reference_file
    before = dict(np.load(file))
    train(config, path, progress=False, devices=one_device)
    assert len(calls) == 2
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=9))
    train(longer, path, progress=False, devices=one_device)
    assert len(calls) == 4
    after = dict(np.load(file))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_adapters_leave_the_base_as_it_was(stages, tuned, one_device, tmp_path):
    config, path = stages['lora'], tmp_path / 'run'
    summary = train(config, path, progress=False, devices=one_device)
    workdir = Workdir(path)
    start = load_params(Workdir(tuned))[1]
    placed = placed_state(
        config, jax.make_mesh((1, 1, 1, 1), ('data', 'fsdp', 'context', 'tensor'), devices=one_device)
    )
    base = load_frozen(workdir, placed.frozen)['base']
    assert params_sha256(base) == params_sha256(start)
    moments = [name for name, leaf in named_leaves(placed.opt_state) if leaf.ndim > 1]
    assert moments
    assert all(name.endswith(('lora_a', 'lora_b')) for name in moments)  # nothing of the base is in the optimizer
    assert summary['trained_parameters'] < summary['parameters'] / 3
    adapted = dict(named_leaves(load_params(workdir)[1]))
    changed = {name for name, leaf in named_leaves(start) if not np.array_equal(leaf, adapted[name])}
    kernels = ('attention/query', 'attention/key', 'attention/value', 'attention/output')
    kernels += ('feed_forward/gate', 'feed_forward/up', 'feed_forward/down')
    assert changed == {f'blocks/{name}/kernel' for name in kernels}


def test_a_merged_run_stands_alone(stages, one_device, tmp_path):
    train(stages['lora'], tmp_path / 'run', progress=False, devices=one_device)
    merge(Workdir(tmp_path / 'run'), Workdir(tmp_path / 'merged'))
    here, there = (evaluate_checkpoint(Workdir(tmp_path / name)) for name in ('run', 'merged'))
    assert here == there
    again = dataclasses.replace(stages['sft'], init_from=InitFromConfig(workdir=str(tmp_path / 'merged')))
    train(again, tmp_path / 'again', progress=False, devices=one_device)
    with pytest.raises(UserError, match='no adapters'):
        merge(Workdir(tmp_path / 'merged'), Workdir(tmp_path / 'twice'))
    with pytest.raises(UserError, match='exists'):
        merge(Workdir(tmp_path / 'run'), Workdir(tmp_path / 'merged'))


def test_a_damaged_base_is_an_error(stages, one_device, tmp_path):
    config = stages['lora']
    short = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=4))
    train(short, tmp_path / 'run', progress=False, devices=one_device)
    victim = max((tmp_path / 'run' / 'frozen').rglob('d/*'), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(UserError, match='frozen is missing or damaged'):
        train(config, tmp_path / 'run', progress=False, devices=one_device)


def test_a_reward_model_says_how_to_standardise_it(stages, one_device, tmp_path):
    summary = train(stages['reward_model'], tmp_path / 'run', progress=False, devices=one_device)
    held_out = summary['held_out']
    assert summary['reward_statistics'].keys() == {'mean', 'std'}
    assert held_out['min_reward'] < summary['reward_statistics']['mean'] < held_out['max_reward']
    assert 0 <= held_out['accuracy'] <= 1
    assert 0 <= held_out['calibration_error'] <= 1
    assert held_out['min_reward'] < held_out['mean_reward'] < held_out['max_reward']
    assert load_params(Workdir(tmp_path / 'run'))[1]['reward_head']['kernel'].shape == (32, 1)


def test_what_does_not_go_together(base, stages, one_device, tmp_path):
    def refused(config, match):
        with pytest.raises(UserError, match=match):
            train(config, tmp_path / 'run', progress=False, devices=one_device)
        assert not (tmp_path / 'run' / 'checkpoints').exists()

    words = dataclasses.replace(base, tokenizer=TokenizerConfig(kind='bpe'))
    refused(words, 'no tokenizer; start from a trained run')
    documents = dataclasses.replace(base, data=dataclasses.replace(base.data, corpora=('python_stdlib',)))
    refused(documents, 'rows of examples come from jsonl')
    wide = dataclasses.replace(stages['dpo'], model=dataclasses.replace(base.model, width=64))
    refused(wide, 'make the models agree')


@pytest.mark.slow
def test_a_fork_keeps_the_reference(stages, one_device, tmp_path):
    """What a run has been compared with is what its fork is compared with: the curve goes on as it was."""
    whole = train(stages['dpo'], tmp_path / 'whole', progress=False, devices=one_device)
    fork = InitFromConfig(workdir=str(tmp_path / 'whole'), step=4, optimizer_state=True, continue_step=True)
    forked = train(
        dataclasses.replace(stages['dpo'], init_from=fork), tmp_path / 'f', progress=False, devices=one_device
    )
    assert forked['params_sha256'] == whole['params_sha256']
    Workdir(tmp_path / 'whole').reference_file.unlink()
    with pytest.raises(UserError, match='its reference is not to be had'):
        train(dataclasses.replace(stages['dpo'], init_from=fork), tmp_path / 'g', progress=False, devices=one_device)
    with pytest.raises(UserError, match='forks a run'):
        train(dataclasses.replace(stages['sft'], init_from=fork), tmp_path / 'h', progress=False, devices=one_device)
    adapted = dataclasses.replace(stages['dpo'], init_from=fork, lora=LoRAConfig(rank=2))
    with pytest.raises(UserError, match='adapters begin anew'):
        train(adapted, tmp_path / 'i', progress=False, devices=one_device)


@pytest.mark.slow
def test_a_merged_preference_run_keeps_its_reference(stages, one_device, tmp_path):
    train(stages['dpo with lora'], tmp_path / 'run', progress=False, devices=one_device)
    merge(Workdir(tmp_path / 'run'), Workdir(tmp_path / 'merged'))
    here, there = (evaluate_checkpoint(Workdir(tmp_path / name)) for name in ('run', 'merged'))
    assert here == there
    Workdir(tmp_path / 'run').reference_file.unlink()
    again = evaluate_checkpoint(Workdir(tmp_path / 'run'))
    assert again['loss'] == pytest.approx(here['loss'], abs=1e-5)


@pytest.mark.slow
def test_where_a_run_started_stays_where_it_was(base, stages, one_device, tmp_path):
    """The run that it started from trains on; its reference, made again, is still that of then."""
    train(base, tmp_path / 'base', progress=False, devices=one_device)
    config = dataclasses.replace(stages['dpo'], init_from=InitFromConfig(workdir=str(tmp_path / 'base')))
    train(config, tmp_path / 'run', progress=False, devices=one_device)
    longer = dataclasses.replace(base, training=dataclasses.replace(base.training, steps=10))
    train(longer, tmp_path / 'base', progress=False, devices=one_device)
    before = evaluate_checkpoint(Workdir(tmp_path / 'run'))
    Workdir(tmp_path / 'run').reference_file.unlink()
    again = evaluate_checkpoint(Workdir(tmp_path / 'run'))
    assert again['rewards/chosen'] == pytest.approx(before['rewards/chosen'], abs=1e-5)


@pytest.mark.slow
def test_giving_up_with_adapters_says_what_was_lost(stages, one_device, tmp_path, monkeypatch):
    config = dataclasses.replace(stages['dpo with lora'], divergence=DivergenceConfig(max_rollbacks=0, window=5))
    read = Ledger.read
    lost = lambda self, at, metrics: 'the loss is lost' if at == 6 else read(self, at, metrics)
    monkeypatch.setattr(Ledger, 'read', lost)
    with pytest.raises(MachineError, match=r'gave up after 0 rollbacks.*everything is finite'):
        train(config, tmp_path / 'run', progress=False, devices=one_device)
    assert Workdir(tmp_path / 'run').summary()['status'] == 'failed'


def test_scores_that_float32_cannot_tell_apart_are_ties(stages, one_device, tmp_path):
    with open(tmp_path / 'close.jsonl', 'w') as file:
        for i in range(100):
            rows = {'prompt': f'p{i}', 'responses': ['a', 'b'], 'scores': [16777217, 16777216]}
            file.write(json.dumps(rows) + '\n')
    data = dataclasses.replace(stages['dpo'].data, corpora=(f'jsonl:{tmp_path}/close.jsonl',))
    config = dataclasses.replace(stages['reward_model'], data=data)
    with pytest.raises(UserError, match='all responses have the same score'):
        train(config, tmp_path / 'run', progress=False, devices=one_device)
