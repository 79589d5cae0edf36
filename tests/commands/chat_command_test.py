"""`chat`: lines in, answers out, and what a line that starts with a slash does."""

import dataclasses
import io
import sys

import jax
import jax.numpy as jnp
import pytest

from llm import chat
from llm.commands.chat import Args, run
from llm.config import SFT, Config, DataConfig, ModelConfig, NextToken, TokenizerConfig
from llm.errors import UserError
from llm.inference.conversation import Conversation
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.model.transformer import Transformer
from llm.tokenizer import train
from llm.workdir import Workdir


@pytest.fixture(scope='module')
def generator():
    model = Transformer(
        ModelConfig(vocab_size=272, context_length=64, num_layers=1, width=16, num_heads=2, init_std=0.5)
    )
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))['params']
    tokenizer = train(TokenizerConfig(kind='byte'), 272, [])
    return Generator(model, params, tokenizer, chat.stop_ids(tokenizer))


@pytest.fixture
def start(generator, tmp_path, monkeypatch):
    """A function from lines and settings: it talks to a run with `generator`'s model."""
    workdir = Workdir(tmp_path)
    generator.tokenizer.save(workdir.tokenizer_file)
    monkeypatch.setattr('llm.training.checkpoint.load_params', lambda *_: (0, generator.params))
    monkeypatch.setattr('llm.runtime.prepare_host', lambda workdir: None)

    def start(*lines, objective=None, stdin=io.TextIOWrapper, **settings):
        rows = DataConfig(sequence_length=8)
        workdir.write_config(Config(model=generator.model.config, data=rows, objective=objective or SFT()))
        data = b''.join(line + b'\n' for line in lines)
        monkeypatch.setattr(sys, 'stdin', stdin(io.BytesIO(data), encoding='utf-8'))
        run(Args(**{'workdir': tmp_path, 'max_new_tokens': 12} | settings))

    return start


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.fixture
def typed(start, monkeypatch):
    """Like `start`, at a terminal: a line may be an exception that is raised instead."""

    def typed(*lines, **settings):
        waiting = list(lines)

        def read(prompt):
            line = waiting.pop(0) if waiting else EOFError
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr('builtins.input', read)
        start(stdin=Terminal, **settings)

    return typed


@pytest.fixture
def expected(generator):
    """A function from what a user says to the answers, as stdout shows them."""

    def expected(*texts, temperature=0.7, seed=0, **settings):
        sampling = SamplingParams(temperature=temperature, seed=seed)
        talk = Conversation(generator, sampling, **{'max_new_tokens': 12} | settings)
        return ''.join(''.join(talk.ask(text)) + '\n' for text in texts)

    return expected


def test_each_line_of_a_pipe_is_a_turn(start, expected, capsys):
    start(b'ab', b'', b'cd')
    shown = capsys.readouterr()
    assert shown.out == expected('ab', 'cd')
    assert shown.err == ''


def test_bytes_that_are_not_utf8_pass_through(start, expected, capsys):
    start(b'a\xffb')
    assert capsys.readouterr().out == expected(b'a\xffb'.decode('utf-8', 'surrogateescape'))


def test_a_block_is_one_turn_whatever_is_in_it(start, expected, capsys):
    start(b'"""', b'a', b'', b'/reset"""', b'"""/x"""', b'a "b"')
    assert capsys.readouterr().out == expected('a\n\n/reset', '/x', 'a "b"')


def test_commands_change_what_comes_after_them(start, expected, capsys):
    start(b'/temperature 0', b'/system Be.', b'ab', b'/reset', b'cd', b'/exit', b'ef')
    out = capsys.readouterr().out
    first = expected('ab', temperature=0, system='Be.')
    second = expected('cd', temperature=0, system='Be.')
    assert out == first + second
    start(b'/system', b'ab', system='Be.', temperature=0.0)
    assert capsys.readouterr().out == expected('ab', temperature=0)


def test_regenerate(start, expected, capsys):
    start(b'ab', b'/regenerate')
    assert capsys.readouterr().out == expected('ab') + expected('ab', seed=1)


def test_help_names_every_command_and_is_no_answer(start, capsys):
    start(b'/help')
    shown = capsys.readouterr()
    assert shown.out == ''
    for name in ('temperature', 'system', 'reset', 'regenerate', 'help', 'exit'):
        assert f'/{name}' in shown.err


@pytest.mark.parametrize(
    'line, message',
    [
        (b'/temperature', "/temperature takes a number of at least 0, not ''"),
        (b'/temperature hot', "not 'hot'"),
        (b'/temperature -1', "not '-1'"),
        (b'/temperature nan', "not 'nan'"),
        (b'/tempo 1', 'there is no /tempo; the commands are /temperature, /system'),
        (b'/regenerate', 'there is no answer yet'),
        (b'x' * 60, 'there is room for 53'),
    ],
)
def test_a_mistake_ends_a_pipe_and_not_a_talk(start, typed, expected, capsys, line, message):
    with pytest.raises(UserError, match=message):
        start(line, b'ab')
    typed(line.decode(), 'ab')
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == expected('ab') + '\n'  # and the line end after the Ctrl-D


def test_ctrl_c_stops_an_answer_or_a_line_and_ctrl_d_ends(typed, expected, capsys, monkeypatch):
    ask, stopped = Conversation.ask, []

    def interrupted(self, text):
        pieces = ask(self, text)
        if stopped:
            return pieces

        def read():
            stopped.append(next(pieces))
            yield stopped[0]
            raise KeyboardInterrupt

        return read()

    monkeypatch.setattr(Conversation, 'ask', interrupted)
    typed('ab', KeyboardInterrupt, '/temperature 0', 'cd')
    shown = capsys.readouterr().out
    start, _, rest = shown.partition('\n')
    assert start == stopped[0]
    assert rest.count('\n') >= 3  # the line given up, the answer, Ctrl-D


def test_ctrl_c_ends_a_pipe(start, monkeypatch):
    def interrupted(self, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, 'ask', interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(b'ab')


def test_what_is_forgotten_is_said(start, capsys):
    start(*[letter * 10 for letter in (b'a', b'b', b'c', b'd')])
    assert 'messages no longer fit the context' in capsys.readouterr().err


def test_a_model_that_never_saw_a_conversation_is_announced(start, capsys):
    start(b'/exit', objective=NextToken())
    assert 'has learned to continue texts' in capsys.readouterr().err


def test_every_setting_of_the_sampler_is_a_setting_of_the_command(start, capsys):
    names = {f.name: f.default for f in dataclasses.fields(Args)}
    for f in dataclasses.fields(SamplingParams):
        assert names[f.name] == f.default or f.name == 'temperature'
    start(b'ab')
    plain = capsys.readouterr().out
    changes = [{'temperature': 3.0}, {'top_k': 1}, {'top_p': 0.05}, {'min_p': 0.9}, {'repetition_penalty': 9.0}]
    for change in [*changes, {'seed': 1}, {'system': 'Be.'}, {'max_new_tokens': 3}]:
        start(b'ab', **change)
        assert capsys.readouterr().out != plain, change


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'temperature': -1.0}, r'temperature is -1.0; it must be at least 0'),
        ({'max_new_tokens': 0}, 'ask for 1 to 32'),
        ({'max_new_tokens': 33}, 'ask for 1 to 32'),
    ],
)
def test_settings_out_of_range_are_one_line(start, settings, message):
    with pytest.raises(UserError, match=message):
        start(b'ab', **settings)
