"""Archives of runs: any bytes come back, and what is not the same is refused in one line."""

import dataclasses
import os
import random
import subprocess
import sys

import pytest

from llm.command_line import main
from llm.compression import archive, circumstances, codec, compressor
from llm.compression.compressor import tokenize
from llm.compression.container import from_bytes
from llm.config import Masked, RewardModel
from llm.errors import MachineError, UserError
from llm.workdir import Workdir

TEXT = ('def return class import self value list dict\t\n' * 60).encode()
FILES = {
    'nothing': b'',
    'one byte': b'\xff',
    'zeros': b'\0' * 60,
    'every byte': bytes(range(256)),
    'random': random.Random(0).randbytes(60),
    'not UTF-8': 'größer'.encode('latin-1') + b'\xc3\x28 \xed\xa0\x80 ' + 'größer'.encode(),
    'special': '▁▅ \uf009<bos><|user|>\r\n\r\ufeff𝄞\u2028'.encode(),
    'one long line': b'self value ' * 500,
    'text': TEXT,
}


@pytest.fixture(scope='module')
def tiny(run):
    return compressor.load(run)


@pytest.mark.parametrize('name', FILES)
def test_any_bytes_come_back(tiny, run, name):
    """By the model, and as an archive has them."""
    data = FILES[name]
    tokens = tokenize(tiny.tokenizer, data)
    if len(tokens):
        predictors = tiny.predictors(len(tokens), 64, tiny.window)
        payload = codec.encode(predictors, tokens, 1)
        again = tiny.predictors(len(tokens), 64, tiny.window)
        found = codec.decode(again, payload, len(tokens), 1, predictors[0].fingerprint)
        assert tiny.tokenizer.decode_bytes(found.tolist()) == data
    made = archive.compress(tiny, data, streams=64)
    assert from_bytes(made.data, '').header == made.header
    assert archive.decompress(run, from_bytes(made.data, 'x.z')) == data
    assert len(made.data) <= len(data) + 150


def test_what_the_model_makes_larger_is_stored(tiny):
    made = archive.compress(tiny, FILES['random'], streams=64)
    assert made.header.coding is None and from_bytes(made.data, '').payload == FILES['random']


@pytest.fixture(scope='module')
def coded(tiny):
    """An archive of text, with its coding."""
    made = archive.compress(tiny, TEXT, streams=64)
    assert made.header.coding is not None and len(made.data) < len(TEXT) / 1.5
    return from_bytes(made.data, 'x.z')


def changed(coded, **fields):
    """The same archive with another coding."""
    coding = dataclasses.replace(coded.header.coding, **fields)
    return dataclasses.replace(coded, header=dataclasses.replace(coded.header, coding=coding))


def test_the_model_gives_back_what_it_coded(coded, run):
    assert archive.decompress(run, coded) == TEXT


def test_another_model_is_refused(coded, other_run, byte_run):
    with pytest.raises(UserError, match=r"x.z was compressed with the model 'tiny' at step 3, whose parameters are "):
        archive.decompress(other_run, coded)
    with pytest.raises(UserError, match='has another tokenizer; give the workdir that it was made with'):
        archive.decompress(byte_run, coded)


def test_a_checkpoint_that_is_gone_is_named(coded, run):
    with pytest.raises(UserError, match=r"the model 'tiny' at step 9, and .* has no such checkpoint"):
        archive.decompress(run, changed(coded, step=9))


@pytest.mark.parametrize('name', ['host_threads', 'jax', 'jaxlib', 'device_kind', 'xla_flags'])
def test_other_circumstances_are_refused_by_name(coded, run, name):
    numerics = coded.header.coding.numerics
    assert name in numerics
    with pytest.raises(UserError, match=f"was compressed with {name} 'another', and here it is .*; .+"):
        archive.decompress(run, changed(coded, numerics=numerics | {name: 'another'}))


def test_a_machine_that_computes_other_bits_is_told_so(coded, run):
    there = changed(coded, fingerprint='0' * 32, made_by=circumstances.made_by() | {'cpu': 'Another 9000'})
    with pytest.raises(MachineError, match=r"in their last bits .*x.z.*\(cpu 'Another 9000' there, .* here\)"):
        archive.decompress(run, there)


def test_what_comes_out_is_compared_with_what_went_in(coded, run):
    wrong = dataclasses.replace(coded, header=dataclasses.replace(coded.header, sha256='0' * 64))
    with pytest.raises(MachineError, match='not what went in'):
        archive.decompress(run, wrong)
    payload = bytes(byte ^ 255 for byte in coded.payload)
    with pytest.raises(MachineError):
        archive.decompress(run, dataclasses.replace(coded, payload=payload))


def test_the_number_of_streams(tiny):
    config = tiny.model.config
    assert [tiny.streams(n) for n in (1, 511, 512, 1023, 1024, 5000, 10**6)] == [1, 1, 1, 1, 2, 8, 64]
    wide = dataclasses.replace(config, context_length=2**14, head_dim=512)
    huge = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, config=wide, parent=None))
    assert huge.window == 1024 and huge.streams(10**6) == 64
    with pytest.raises(UserError, match='--streams is 0'):
        archive.compress(tiny, b'abc', streams=0)


@pytest.mark.parametrize('objective, said', [(Masked(), 'compression takes one'), (RewardModel(), 'predicts no text')])
def test_a_model_that_does_not_predict_the_next_token_is_refused(objective, said, run, tmp_path):
    workdir = Workdir(tmp_path)
    workdir.write_config(dataclasses.replace(run.config(), objective=objective))
    with pytest.raises(UserError, match=said):
        compressor.load(workdir)


def test_commands_give_a_file_back(run, tmp_path, capsys):
    (tmp_path / 'a.py').write_bytes(FILES['special'] + TEXT)
    assert main(['compress', '--workdir', f'{run.path}', f'{tmp_path}/a.py', '--out', f'{tmp_path}/a.z']) == 0
    said = capsys.readouterr()
    assert f'{tmp_path}/a.z: ' in said.out and 'bits per byte' in said.out and said.out.count('\n') == 1
    assert main(['decompress', f'{tmp_path}/a.z', '--workdir', f'{run.path}', '--out', f'{tmp_path}/b.py']) == 0
    assert (tmp_path / 'b.py').read_bytes() == (tmp_path / 'a.py').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.py', 'a.z', 'b.py']


def test_commands_refuse_in_one_line_and_write_nothing(run, tmp_path, capsys):
    (tmp_path / 'a').write_bytes(TEXT)
    assert main(['compress', '--workdir', f'{run.path}', f'{tmp_path}/a', '--out', f'{tmp_path}/a.z']) == 0
    whole = (tmp_path / 'a.z').read_bytes()
    (tmp_path / 'cut.z').write_bytes(whole[:-9])
    (tmp_path / 'damaged.z').write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    capsys.readouterr()
    for command, file, out, said in (
        ('decompress', 'cut.z', 'new', 'is cut short'),
        ('decompress', 'damaged.z', 'new', 'is damaged: its checksum does not match'),
        ('decompress', 'a', 'new', 'is not an archive'),
        ('decompress', 'none', 'new', 'cannot read'),
        ('decompress', 'a.z', 'a', 'is there already'),
        ('compress', 'none', 'new', 'cannot read'),
        ('compress', '', 'new', 'cannot read'),
        ('compress', 'a', 'a.z', 'is there already'),
    ):
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        arguments = ['--workdir', f'{run.path}', f'{tmp_path}/{file}', '--out', f'{tmp_path}/{out}']
        assert main([command, *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count('\n') == 1
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.slow  # three processes, each of which imports jax
def test_another_process_gives_the_file_back_and_takes_the_thread_count_of_the_archive(run, tmp_path):
    (tmp_path / 'a').write_bytes(TEXT)
    environment = {name: value for name, value in os.environ.items() if name != 'NPROC'}

    def command(*arguments, **more):
        process = [sys.executable, '-m', 'llm', *arguments]
        return subprocess.run(process, env=environment | more, capture_output=True, text=True, timeout=300)

    out = ['--workdir', f'{run.path}', '--out']
    made = command('compress', f'{tmp_path}/a', *out, f'{tmp_path}/a.z', NPROC='3')
    assert made.returncode == 0, made.stderr
    refused = command('decompress', f'{tmp_path}/a.z', *out, f'{tmp_path}/b', NPROC='2')
    assert refused.returncode == 2 and 'host_threads 3, and here it is 2' in refused.stderr
    assert not (tmp_path / 'b').exists()
    done = command('decompress', f'{tmp_path}/a.z', *out, f'{tmp_path}/b')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'b').read_bytes() == TEXT
