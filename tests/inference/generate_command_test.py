"""`generate`: what it prints, and what it refuses."""

import dataclasses
import io
import pathlib
import sys

import pytest
import tyro

from llm.commands import generate
from llm.commands.generate import Args, run
from llm.config import Config, DataConfig, TokenizerConfig
from llm.errors import UserError
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.tokenizer import train
from llm.workdir import Workdir


@pytest.fixture(scope='module')
def generator(tiny):
    model, params = tiny(vocab_size=272)
    return Generator(model, params, train(TokenizerConfig(kind='byte'), 272, []))


@pytest.fixture
def output(generator, tmp_path, monkeypatch, capsys):
    """A function from settings to what the command prints, for a run with `generator`'s model."""
    workdir = Workdir(tmp_path)
    workdir.write_config(Config(model=generator.model.config, data=DataConfig(sequence_length=8)))
    generator.tokenizer.save(workdir.tokenizer_file)
    loaded = []

    def load_params(opened, step, ema):
        assert opened.path == tmp_path
        loaded.append((step, ema))
        return 0, generator.params

    monkeypatch.setattr('llm.training.checkpoint.load_params', load_params)
    monkeypatch.setattr('llm.runtime.prepare_host', lambda workdir: None)

    def printed(**settings):
        run(Args(**{'workdir': tmp_path, 'prompt': 'ab', 'max_new_tokens': 10} | settings))
        return capsys.readouterr().out

    printed.loaded = loaded
    return printed


def test_the_checkpoint_asked_for_is_loaded(output):
    output()
    output(step=3, ema=True)
    assert output.loaded == [(None, False), (3, True)]


def test_stdout_is_the_text(generator, output):
    sampling = SamplingParams(temperature=0.8, top_k=9, seed=3)
    (expected,) = generator.generate(['ab'], sampling, max_new_tokens=10)
    assert output(temperature=0.8, top_k=9, seed=3) == expected.text + '\n'


def test_a_dash_reads_stdin_to_the_byte(generator, output, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'a\xff\n')))
    (expected,) = generator.generate([b'a\xff\n'], SamplingParams(), max_new_tokens=10)
    assert output(prompt='-') == expected.text + '\n'


def test_samples_have_seeds_of_their_own_and_a_separator(output):
    alone = [output(seed=seed) for seed in (4, 5, 6)]
    assert len(set(alone)) == 3
    separators = [f'===== sample {n} of 3, seed {seed} =====\n' for n, seed in ((1, 4), (2, 5), (3, 6))]
    expected = ''.join(separator + text for separator, text in zip(separators, alone))
    assert output(seed=4, num_samples=3) == expected


def test_every_setting_reaches_the_sampler(output):
    plain = output(max_new_tokens=20)
    changes = [
        {'temperature': 0.5},
        {'top_k': 2},
        {'top_p': 0.2},
        {'min_p': 0.5},
        {'repetition_penalty': 5.0},
        {'seed': 1},
        {'stop': (plain[3],)},
        {'beam_size': 2},
    ]
    for change in changes:
        assert output(max_new_tokens=20, **change) != plain, change
    beams = [output(max_new_tokens=12, beam_size=8, length_penalty=alpha) for alpha in (0.0, 50.0)]
    assert beams[0] != beams[1]
    assert len(output(max_new_tokens=60, past_context='slide')) > len(plain)


def test_the_table_of_probabilities(generator, output):
    text = output()
    lines = output(show_probabilities=True).removesuffix(text).splitlines()
    table = generator.next_token_table('ab', 10)
    assert lines[0] == 'Next token, as the model has it'
    for line, (piece, _, probability) in zip(lines[1:11], table):
        assert line.split()[:2] == [piece, f'{probability:.2f}']
    # Settings that change the distribution get a table of their own.
    lines = output(show_probabilities=True, top_k=1).splitlines()
    assert lines[12:14] == ['Next token, as it is drawn', f'{table[0][0]}  1.00 ██████████']


def test_bars_are_in_proportion():
    assert generate.table([('Paris', 7, 0.82), ('a', 9, 0.1), ('b', 3, 0.01)]) == [
        'Paris  0.82 ████████',
        'a      0.10 █',
        'b      0.01',
    ]


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'temperature': -1.0}, 'temperature is -1.0; it must be at least 0'),
        ({'top_p': 0.0}, r'top_p is 0.0; it must be in \(0, 1\]'),
        ({'top_k': -1}, 'top_k is -1'),
        ({'seed': 2**32 - 1, 'num_samples': 2}, 'seed is 4294967296'),
        ({'max_new_tokens': 0}, '--max-new-tokens is 0; ask for at least 1'),
        ({'num_samples': 0}, '--num-samples is 0; ask for at least 1'),
        ({'beam_size': -1}, '--beam-size is -1'),
        ({'beam_size': 2, 'temperature': 0.5, 'top_k': 3}, '--temperature, --top-k and --beam-size do not combine'),
        ({'beam_size': 2, 'stop': ('a',)}, '--stop and --beam-size do not combine'),
        ({'beam_size': 2, 'num_samples': 2}, '--num-samples and --beam-size do not combine'),
        ({'length_penalty': 0.5}, '--length-penalty belongs to beam search'),
        ({'beam_size': 2, 'length_penalty': -1.0}, 'length_penalty is -1.0; it must be at least 0'),
        ({'workdir': pathlib.Path('nowhere')}, 'there is no workdir nowhere'),
        ({'prompt': 'a' * 40}, 'the prompt has 41 tokens'),
        ({'max_new_tokens': 64}, 'ask for at most 30 new tokens'),
        ({'stop': ('',)}, 'a stop string is empty'),
    ],
    ids=str,
)
def test_mistakes_are_one_line(output, settings, message):
    with pytest.raises(UserError, match=message) as error:
        output(**settings)
    assert '\n' not in str(error.value)


def test_stop_strings_add_up_on_the_command_line():
    words = ['--workdir', 'run', '--prompt', 'a', '--stop', 'x y', '--stop', '\n']
    assert tyro.cli(Args, args=words).stop == ('x y', '\n')


def test_every_setting_of_the_sampler_is_a_setting_of_the_command():
    names = {f.name: f.default for f in dataclasses.fields(Args)}
    for f in dataclasses.fields(SamplingParams):
        assert names[f.name] == f.default
