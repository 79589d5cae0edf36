"""The server on the real engine writes what the generator writes alone."""

import concurrent.futures
import os
import re
import signal
import subprocess
import sys

import jax
import openai
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scripted_engine import make_generator, make_params

from llm import chat, config_json
from llm.config import CheckpointConfig, Config, DataConfig
from llm.inference import slot_programs
from llm.inference.engine import Engine, Request
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.parallel.mesh import one_device
from llm.training.checkpoint import Checkpoints
from llm.training.ledger import new_record
from llm.training.train_state import state_from_params
from llm.workdir import Workdir

CONTEXT = 96
PROGRAMS = slot_programs.open_slot, slot_programs.read, slot_programs.write
PROMPTS = ('a', 'def f(x):', 'x' * 30, 'é', 'one two three')


@pytest.fixture(scope='module')
def generator():
    return make_generator(CONTEXT)


@pytest.fixture(scope='module')
def client(start, generator):
    with start(Engine(generator, slots=4, max_queue=32)) as server:
        yield openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)


def test_texts_are_those_of_the_generator(client, generator):
    settings = [
        {'temperature': 0.0},
        {'temperature': 0.8, 'top_p': 0.9, 'seed': 5},
        {'temperature': 1.0, 'top_k': 20, 'min_p': 0.05, 'repetition_penalty': 1.2, 'seed': 2**32 - 1},
    ]
    asked = [(prompt, setting) for prompt in PROMPTS for setting in settings]

    def ask(prompt, setting):
        ours = {name: value for name, value in setting.items() if name in ('top_k', 'min_p', 'repetition_penalty')}
        theirs = {name: value for name, value in setting.items() if name not in ours}
        stream = client.completions.create(
            model='tiny', prompt=prompt, max_tokens=32, stop=['~~'], stream=True, extra_body=ours, **theirs
        )
        choices = [chunk.choices[0] for chunk in stream]
        return ''.join(choice.text for choice in choices), choices[-1].finish_reason

    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        got = list(pool.map(lambda pair: ask(*pair), asked))
    for (prompt, setting), (text, reason) in zip(asked, got):
        (alone,) = generator.generate([prompt], SamplingParams(**setting), max_new_tokens=32, stop=['~~'])
        assert text == alone.text
        assert reason == ('length' if alone.finish_reason == 'length' else 'stop')


def test_answers_and_their_log_probabilities(client, generator):
    messages = [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hi'}]
    answer = client.chat.completions.create(
        model='tiny', messages=messages, max_tokens=20, seed=3, n=2, logprobs=True, top_logprobs=2
    )
    ids = chat.encode_prompt(generator.tokenizer, messages)
    for choice in answer.choices:
        (alone,) = generator.generate([ids], SamplingParams(seed=3 + choice.index), max_new_tokens=20)
        assert choice.message.content == alone.text
        tokens = choice.logprobs.content
        assert [token.logprob for token in tokens] == pytest.approx(alone.logprobs, abs=1e-4)
        for token in tokens:
            best, second = token.top_logprobs
            assert best.logprob >= second.logprob and best.logprob >= token.logprob - 1e-5


def test_the_first_request_finds_everything_compiled(generator):
    """With parameters as a checkpoint gives them: on a mesh."""
    placed = jax.device_put(generator.params, NamedSharding(one_device(), PartitionSpec()))
    engine = Engine(Generator(generator.model, placed, generator.tokenizer), slots=2)
    engine.start()
    compiled = [program._cache_size() for program in PROGRAMS]
    for prompt, top in (([1, 20, 21], 0), ([1] + [30] * 60, 0), ([1, 20], 3)):
        engine.submit(Request(prompt, SamplingParams(temperature=0), 8, top_logprobs=top)).result(60)
    engine.stop()
    assert [program._cache_size() for program in PROGRAMS] == compiled


def test_the_command_from_the_address_to_the_exit_code(generator, tmp_path):
    config = Config(model=generator.model.config, data=DataConfig(sequence_length=8))
    workdir = Workdir(tmp_path / 'small')
    workdir.path.mkdir()
    state = jax.jit(lambda params: state_from_params(config, params, 0))(make_params(CONTEXT)[1])
    checkpoints = Checkpoints(workdir.checkpoints)
    record = new_record() | {'config': config_json.to_dict(config)}
    checkpoints.save(0, state.stored(), record, CheckpointConfig())
    checkpoints.finish(CheckpointConfig())
    checkpoints.close()
    generator.tokenizer.save(workdir.tokenizer_file)
    workdir.write_config(config)

    token = 'a-token-from-the-environment'
    command = [sys.executable, '-m', 'llm', 'serve', '--workdir', str(workdir.path), '--port', '0', '--slots', '2']
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {'GLASSBOX_SERVE_TOKEN': token},
    )
    try:
        line = process.stdout.readline()
        url = re.fullmatch(r'small answers at (http://127\.0\.0\.1:\d+/v1)\n', line)[1]
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key='wrong').models.list()
        client = openai.OpenAI(base_url=url, api_key=token, max_retries=0)
        stream = client.completions.create(model='small', prompt='a', max_tokens=90, temperature=0, stream=True)
        text = next(stream).choices[0].text
        process.send_signal(signal.SIGTERM)
        text += ''.join(chunk.choices[0].text for chunk in stream)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    (alone,) = generator.generate(['a'], SamplingParams(temperature=0), max_new_tokens=90)
    assert text == alone.text
    assert process.returncode == 0 and out == ''
    assert token not in err and 'Traceback' not in err and '200 in' in err
