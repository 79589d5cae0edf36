"""A file of prompts: every row written as it would be alone, in order; what was stopped goes on to the same bytes."""

import json

import numpy as np
import pytest

from llm import chat
from llm.commands import generate as command
from llm.config import Config, DataConfig, TokenizerConfig
from llm.errors import UserError
from llm.inference import prompt_file
from llm.inference.engine import Engine
from llm.inference.generate import Generator
from llm.inference.prompt_file import Settings, write_file
from llm.inference.sampling import SamplingParams
from llm.tokenizer import train
from llm.workdir import Workdir

SETTINGS = Settings(SamplingParams(temperature=0.9, seed=5), max_new_tokens=9, num_samples=2, stop=('zz',))


@pytest.fixture(scope='module')
def generator(tiny):
    model, params = tiny(vocab_size=272)
    return Generator(model, params, train(TokenizerConfig(kind='byte'), 272, []))


@pytest.fixture
def files(tmp_path):
    """(prompts, out) with 13 prompts of many lengths, one of them too long, and fields of their own."""
    rng = np.random.default_rng(0)
    texts = [''.join(rng.choice(list('abc €'), size)) for size in rng.integers(0, 8, 12)]
    texts.insert(4, 'x' * 40)
    rows = [{'id': number, 'prompt': text} for number, text in enumerate(texts)]
    prompts = tmp_path / 'prompts.jsonl'
    prompts.write_text('\n\n'.join(json.dumps(row, ensure_ascii=False) for row in rows) + '\n')
    return prompts, tmp_path / 'out.jsonl'


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_gets_what_it_would_get_alone(generator, files):
    prompts, out = files
    assert write_file(generator, prompts, out, SETTINGS, 'a', slots=4) == 2
    rows, source = rows_of(out), prompt_file.read_rows(prompts, False)
    assert len(rows) == 26
    for number, row in enumerate(rows):
        written, seed = row.pop('generated'), 5 + number
        assert row == source[number // 2]
        assert written['seed'] == seed
        if row['id'] == 4:
            assert "the model's context 32; shorten the prompt" in written['error']
            assert 'text' not in written
            continue
        (alone,) = generator.generate(
            [row['prompt']], SamplingParams(temperature=0.9, seed=seed), max_new_tokens=9, stop=('zz',)
        )
        assert (written['text'], written['finish_reason']) == (alone.text, alone.finish_reason)
        assert written['new_tokens'] == len(alone.ids)
        assert written['prompt_tokens'] == len(generator.encode(row['prompt']))
    assert not out.with_name('out.jsonl.part').exists()


@pytest.mark.parametrize('torn', [False, True])
def test_what_was_stopped_goes_on(generator, files, monkeypatch, torn):
    prompts, out = files
    write_file(generator, prompts, out, SETTINGS, 'a', slots=4)
    whole = out.read_bytes()
    out.unlink()
    part, submit, asked = out.with_name('out.jsonl.part'), Engine.submit, []

    def some(engine, request):
        asked.append(request)
        if len(asked) == 15:
            raise KeyboardInterrupt
        return submit(engine, request)

    monkeypatch.setattr(Engine, 'submit', some)
    with pytest.raises(KeyboardInterrupt):
        write_file(generator, prompts, out, SETTINGS, 'a', slots=4)
    monkeypatch.setattr(Engine, 'submit', submit)
    assert not out.exists()
    kept = part.read_bytes().count(b'\n') - 1
    assert 0 < kept < 15
    if torn:
        part.write_bytes(part.read_bytes()[:-7])
        kept -= 1
    asked.clear()
    monkeypatch.setattr(Engine, 'submit', lambda engine, request: asked.append(request) or submit(engine, request))
    assert write_file(generator, prompts, out, SETTINGS, 'a', slots=4) == 2
    assert out.read_bytes() == whole
    assert len(asked) == 26 - kept - (2 if kept <= 8 else 0 if kept >= 10 else 1)  # the prompt too long is none of them


def test_nothing_goes_on_with_something_else(generator, files):
    prompts, out = files
    part = out.with_name('out.jsonl.part')
    write_file(generator, prompts, out, SETTINGS, 'a', slots=4)
    head = {'source': 'a', 'prompts': prompt_file._digest(prompt_file.read_rows(prompts, False))}
    with pytest.raises(UserError, match=r'out.jsonl exists; move it away'):
        write_file(generator, prompts, out, SETTINGS, 'a')
    out.unlink()
    part.write_text(json.dumps(head | {'source': 'b'}) + '\n')
    with pytest.raises(UserError, match=r'was begun with other settings \(source, sampling, max_new_tokens'):
        write_file(generator, prompts, out, SETTINGS, 'a')
    part.write_text('[1]\nno JSON\n')
    with pytest.raises(UserError, match=r'out.jsonl.part is damaged; remove it'):
        write_file(generator, prompts, out, SETTINGS, 'a')


def test_answers_to_messages(generator, files):
    prompts, out = files
    talk = [{'role': 'system', 'content': 'b'}, {'role': 'user', 'content': 'a'}]
    prompts.write_text(json.dumps({'messages': talk}) + '\n' + json.dumps({'prompt': 'a'}) + '\n')
    settings = Settings(SamplingParams(temperature=0.0), max_new_tokens=5, answers=True)
    write_file(generator, prompts, out, settings, 'a', slots=4)
    for row, messages in zip(rows_of(out), (talk, talk[1:])):
        ids = chat.encode_prompt(generator.tokenizer, messages)
        (alone,) = generator.generate([ids], settings.sampling, max_new_tokens=5)
        assert row['generated']['text'] == alone.text
        assert row['generated']['prompt_tokens'] == len(ids)


@pytest.mark.parametrize(
    'line, message',
    [
        ('{"prompt": "a"', 'prompts.jsonl:2 is not JSON'),
        ('{"prompt": "a\\ud800b"}', 'prompts.jsonl:2 has half of a surrogate pair'),
        ('["a"]', 'prompts.jsonl:2: a row must be an object with either prompt or messages'),
        ('{"prompt": "a", "messages": []}', 'either prompt or messages'),
        ('{"prompt": 3}', 'prompts.jsonl:2: prompt must be a text'),
        ('{"prompt": "a", "generated": 1}', "has a field 'generated' already"),
        ('{"messages": []}', 'messages are for a model that answers; add --chat'),
    ],
    ids=str,
)
def test_rows_that_are_none(generator, files, line, message):
    prompts, out = files
    prompts.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(UserError, match=message) as error:
        write_file(generator, prompts, out, SETTINGS, 'a')
    assert '\n' not in str(error.value)
    assert list(prompts.parent.iterdir()) == [prompts]


def test_files_that_cannot_be_read(generator, tmp_path):
    with pytest.raises(UserError, match=r'cannot read the prompts .*none.jsonl'):
        write_file(generator, tmp_path / 'none.jsonl', tmp_path / 'out', SETTINGS, 'a')
    (tmp_path / 'empty').write_text('\n')
    with pytest.raises(UserError, match='empty has no prompts'):
        write_file(generator, tmp_path / 'empty', tmp_path / 'out', SETTINGS, 'a')
    with pytest.raises(UserError, match='a stop string is empty'):
        Settings(SamplingParams(), 3, stop=('',))


def test_the_command(generator, files, tmp_path, monkeypatch, capsys):
    prompts, out = files
    workdir = Workdir(tmp_path / 'run')
    workdir.path.mkdir()
    workdir.write_config(Config(model=generator.model.config, data=DataConfig(sequence_length=8)))
    generator.tokenizer.save(workdir.tokenizer_file)
    monkeypatch.setattr('llm.training.checkpoint.checked_step', lambda *_: 0)
    monkeypatch.setattr('llm.training.checkpoint.load_params', lambda *_: (0, generator.params))
    monkeypatch.setattr('llm.runtime.prepare_host', lambda workdir: None)
    options = {'temperature': 0.9, 'seed': 5, 'max_new_tokens': 9, 'num_samples': 2, 'stop': ('zz',), 'slots': 4}
    command.run(command.Args(workdir=workdir.path, prompts=prompts, out=out, **options))
    assert '2 texts could not be written' in capsys.readouterr().err
    again = tmp_path / 'again.jsonl'
    write_file(generator, prompts, again, SETTINGS, 'a', slots=4)
    assert out.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    'settings, message',
    [
        ({}, 'give either --prompt TEXT or --prompts FILE'),
        ({'prompt': 'a', 'prompts': 'p', 'out': 'o'}, 'give either --prompt TEXT or --prompts FILE'),
        ({'prompts': 'p'}, '--prompts and --out go together'),
        ({'prompt': 'a', 'out': 'o'}, '--prompts and --out go together'),
        ({'prompts': 'p', 'out': 'o', 'beam_size': 2}, '--beam-size does not go with --prompts'),
        ({'prompts': 'p', 'out': 'o', 'past_context': 'slide'}, '--past-context does not go with --prompts'),
        ({'prompt': 'a', 'slots': 2}, '--slots does not go with --prompt; drop it'),
    ],
    ids=str,
)
def test_options_that_do_not_combine(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        command.run(command.Args(workdir=tmp_path, **settings))
