"""Models from elsewhere go on learning here, with their own tokenizers: text, conversations, preferences, rewards."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from imported_families import write

from llm import chat, config_json
from llm.config import (
    DPO,
    GRPO,
    SFT,
    AdamW,
    CheckpointConfig,
    Config,
    Constant,
    DataConfig,
    EvaluationConfig,
    InitFromConfig,
    LogConfig,
    LoRAConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
)
from llm.data.prepare import prepare
from llm.errors import UserError
from llm.inference.conversation import Conversation
from llm.inference.generate import load_generator
from llm.inference.sampling import SamplingParams
from llm.tokenizer import copy_tokenizer, open_workdir
from llm.training.checkpoint import Checkpoints, load_params
from llm.training.evaluate import evaluate_checkpoint
from llm.training.ledger import new_record
from llm.training.loop import train
from llm.training.merge import merge
from llm.training.train_state import initial_model
from llm.tree import named_leaves
from llm.workdir import Workdir

VOCABULARY = 448  # more than the tokenizers have: models round it up
WORDS = ('cat', 'dog', 'sun', 'tree', 'red', 'blue', 'naïve', '東京')


@pytest.fixture(scope='session')
def rows(tmp_path_factory):
    """Conversations, plain completions and preferences."""
    folder, draw = tmp_path_factory.mktemp('imported_rows'), np.random.default_rng(0)
    files = {name: open(folder / f'{name}.jsonl', 'w') for name in ('sft', 'plain', 'pairs', 'prompts')}  # noqa: SIM115
    for number in range(160):
        first, second = draw.choice(WORDS, 2, replace=False)
        prompt = [{'role': 'user', 'content': f'join {first} {second} {number}'}]
        good, bad = ([{'role': 'assistant', 'content': f'{first}{mark}{second}'}] for mark in '- ')
        plain = {'prompt': f'{first} {number}', 'completion': f' {second}'}
        for name, row in (
            ('sft', {'messages': prompt + good}),
            ('plain', plain),
            ('pairs', {'prompt': prompt, 'chosen': good, 'rejected': bad}),
            ('prompts', {'prompt': prompt}),
        ):
            files[name].write(json.dumps(row) + '\n')
    for file in files.values():
        file.close()
    return folder


@pytest.fixture(scope='session')
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp('imported_documents')
    for i in range(24):
        lines = (f'{WORDS[(i * j) % len(WORDS)]} = {i + j}  # {WORDS[j % len(WORDS)]}\n' for j in range(30))
        (folder / f'{i}.txt').write_text(''.join(lines))
    return folder


@pytest.fixture(scope='session')
def imported(tmp_path_factory):
    """A function from a family to a workdir as an import leaves it: parameters at step 0, config, tokenizer."""
    found = {}

    def make(family):
        if family not in found:
            folder = tmp_path_factory.mktemp(f'imported_{family}')
            workdir = Workdir(folder / 'run')
            copy_tokenizer(write(family, folder / 'source'), workdir.path)
            model = ModelConfig(vocab_size=VOCABULARY, context_length=96, num_layers=1, width=32, num_heads=2)
            config = Config(model=model, data=DataConfig(sequence_length=96), training=TrainingConfig(steps=1))
            params = jax.jit(lambda: initial_model(config.model, 7))()
            checkpoints = Checkpoints(workdir.checkpoints)
            record = new_record() | {'config': config_json.to_dict(config)}
            checkpoints.save(0, {'params': params}, record, CheckpointConfig())
            checkpoints.finish(CheckpointConfig())
            checkpoints.close()
            workdir.write_config(config)
            workdir.write_summary({'status': 'done', 'step': 0, 'objective': 'next_token'})
            found[family] = workdir
        return found[family]

    return make


@pytest.fixture
def fine_tune(imported, rows, tmp_path, one_device):
    """A function that trains on an imported model and returns the workdir and the summary."""

    def run(family, objective, corpus, steps=6, name='run', batch_size=8, samples=0, **changes):
        source = imported(family)
        config = dataclasses.replace(
            source.config(),
            data=DataConfig(corpora=(corpus if ':' in corpus else f'jsonl:{rows}/{corpus}.jsonl',), sequence_length=96),
            objective=objective,
            optimizer=AdamW(learning_rate=5e-3),
            schedule=Constant(warmup=1),
            init_from=InitFromConfig(workdir=str(source.path)),
            training=TrainingConfig(steps=steps, batch_size=batch_size),
            evaluation=EvaluationConfig(every=steps, max_windows=4, batch_size=8, sample_tokens=samples),
            log=LogConfig(every=1, tensorboard=False),
        )
        path = tmp_path / name
        summary = train(dataclasses.replace(config, **changes), path, progress=False, devices=one_device)
        return Workdir(path), summary

    return run


@pytest.mark.slow
@pytest.mark.parametrize('family', ['qwen', 'llama2'])
def test_conversations_are_learned(fine_tune, imported, family):
    workdir, summary = fine_tune(family, SFT(), 'sft', steps=16)
    evaluations = workdir.rows('evaluation')
    assert evaluations[-1]['loss'] < 0.75 * evaluations[0]['loss']
    assert math.isfinite(summary['held_out']['bits_per_byte'])
    assert open_workdir(workdir.path).digest == open_workdir(imported(family).path).digest
    # What is counted is the answers and the ends of turns.
    tokenizer = open_workdir(workdir.path)
    ids, mask = chat.encode(tokenizer, [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}])
    assert (
        any(mask)
        and not mask[0]
        and summary['data']['held_out']['trained_tokens'] < summary['data']['held_out']['tokens']
    )
    assert evaluate_checkpoint(workdir)['loss'] == pytest.approx(summary['held_out']['loss'], rel=1e-5)


def test_plain_completions_without_a_beginning_are_learned(fine_tune):
    workdir, summary = fine_tune('gpt2', SFT(), 'plain', steps=12)
    evaluations = workdir.rows('evaluation')
    assert evaluations[-1]['loss'] < 0.9 * evaluations[0]['loss']


def test_a_resumed_run_keeps_its_tokenizer(fine_tune, tmp_path):
    workdir, _ = fine_tune('qwen', SFT(), 'sft', steps=4)
    before = sorted((path.name, path.read_bytes()) for path in (workdir.path / 'tokenizer').iterdir())
    _, summary = fine_tune('qwen', SFT(), 'sft', steps=6)
    assert summary['step'] == 6 and not (workdir.path / 'tokenizer.model').exists()
    assert before == sorted((path.name, path.read_bytes()) for path in (workdir.path / 'tokenizer').iterdir())


@pytest.mark.slow
def test_adapters_and_their_merge(fine_tune, imported, tmp_path):
    workdir, summary = fine_tune('llama3', SFT(), 'sft', lora=LoRAConfig(rank=2))
    assert summary['trained_parameters'] < summary['parameters'] / 4
    merged = Workdir(tmp_path / 'merged')
    merge(workdir, merged)
    assert open_workdir(merged.path).digest == open_workdir(imported('llama3').path).digest
    (_, a), (_, b) = load_params(workdir), load_params(merged)
    for (name, x), (_, y) in zip(named_leaves(a), named_leaves(b)):
        np.testing.assert_allclose(x, y, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['gemma', pytest.param('qwen', marks=pytest.mark.slow)])
def test_preferences_are_learned(fine_tune, family):
    workdir, summary = fine_tune(family, DPO(), 'pairs')
    evaluations = workdir.rows('evaluation')
    assert evaluations[0]['loss'] == pytest.approx(math.log(2), abs=1e-5)  # it starts at its reference
    assert evaluations[-1]['loss'] < evaluations[0]['loss']


@pytest.mark.slow
def test_rollouts_end_where_the_template_ends_a_turn(fine_tune, tmp_path):
    reward = tmp_path / 'short.py'
    reward.write_text('def short(completions, **columns):\n    return [-float(len(c)) for c in completions]\n')
    objective = GRPO(
        rollout=RolloutConfig(samples_per_prompt=4, max_new_tokens=8, temperature=1.0),
        reward=RewardConfig(function=f'{reward}:short'),
    )
    workdir, summary = fine_tune('gemma', objective, 'prompts', steps=12, batch_size=4)
    evaluations = workdir.rows('evaluation')
    assert evaluations[-1]['reward'] > evaluations[0]['reward']


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ('llama2', 'qwen', 'sentencepiece')]


@pytest.mark.parametrize('family', ['gpt2', *SLOW])
def test_pretraining_goes_on_and_bits_are_over_the_bytes_of_documents(fine_tune, documents, family):
    workdir, summary = fine_tune(family, Config().objective, f'text:{documents}/*.txt', steps=10, samples=4)
    held_out = summary['held_out']
    config, tokenizer = workdir.config(), open_workdir(workdir.path)
    stores = prepare(config, tokenizer).held_out
    sizes = [(documents / identity).stat().st_size for store in stores for identity in store.identities]
    assert held_out['bytes'] == sum(sizes)
    for store in stores:
        for i in range(store.num_documents):
            text = (documents / store.identities[i]).read_text()
            assert tokenizer.decode(store.document(i)) == text
            row = store.tokens[store.offsets[i] : store.offsets[i + 1]].tolist()
            assert row == [tokenizer.start_id, *tokenizer.encode(text), tokenizer.end_id]
    assert held_out['tokens'] == sum(store.num_tokens for store in stores)
    bits = held_out['loss'] * held_out['tokens'] / math.log(2)
    assert held_out['bits_per_byte'] == pytest.approx(bits / sum(sizes), rel=1e-6)
    assert held_out['loss'] < 5.5 < math.log(VOCABULARY)  # something was learned
    assert workdir.rows('sample')


def test_what_the_tokenizer_loses_is_said(fine_tune, tmp_path, caplog):
    folder = tmp_path / 'accents'
    folder.mkdir()
    for i in range(24):
        (folder / f'{i}.txt').write_text('a caf\u0065\u0301 and more text to fill a window of tokens ' * 12 + str(i))
    _, summary = fine_tune('qwen', Config().objective, f'text:{folder}/*.txt', steps=1)
    assert summary['data']['changed_by_tokenizer'] == 24
    assert '24 of 24 documents do not come back' in caplog.text
    sizes = sum(entry['bytes'] for entry in (summary['data']['held_out'],))
    assert summary['held_out']['bytes'] == sizes  # still those of the documents


def test_it_writes_and_talks(imported):
    workdir = imported('llama2')
    generator = load_generator(workdir)
    (completion,) = generator.generate(['Hello'], SamplingParams(seed=1), max_new_tokens=8)
    assert ''.join(generator.stream('Hello', SamplingParams(seed=1), max_new_tokens=8)) == completion.text
    assert generator.encode('Hello')[0] == generator.tokenizer.bos_id
    talk = Conversation(load_generator(workdir, chat=True), SamplingParams(seed=1), max_new_tokens=6)
    answer = ''.join(talk.ask('Hi'))
    assert talk.messages[-1] == {'role': 'assistant', 'content': answer}
    ''.join(talk.ask('again'))


def test_a_vocabulary_that_does_not_fit_is_refused(fine_tune, imported):
    model = dataclasses.replace(imported('qwen').config().model, vocab_size=300)
    with pytest.raises(UserError, match=r'beyond model\.vocab_size 300') as raised:
        fine_tune('qwen', SFT(), 'sft', model=model)
    assert '\n' not in str(raised.value)


def test_a_template_that_writes_what_the_model_does_not_know_is_refused(fine_tune, imported):
    """Special tokens of other uses may lie beyond a model's vocabulary, but not those of its conversations."""
    source = imported('llama3')
    model = dataclasses.replace(source.config().model, vocab_size=open_workdir(source.path).vocab_size)
    with pytest.raises(UserError, match=r'the chat template writes token \d+, beyond model\.vocab_size'):
        fine_tune('llama3', SFT(), 'sft', model=model)


def test_conversations_without_a_template_are_refused(fine_tune):
    with pytest.raises(UserError, match='has no chat template'):
        fine_tune('gpt2', SFT(), 'sft')
