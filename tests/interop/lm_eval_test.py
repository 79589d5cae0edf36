"""lm-evaluation-harness on our models says what it says with its own `hf` model on the same weights."""

import functools
import json
import os
import pathlib
import tempfile

import pytest

# Read when the harness imports them: nothing is asked of the network, and copies of data lie where tests may write.
os.environ.setdefault('HF_HOME', str(pathlib.Path(tempfile.gettempdir()) / 'glassbox-test-huggingface'))
os.environ['HF_HUB_OFFLINE'] = '1'

from llm import chat
from llm.config import TokenizerConfig
from llm.errors import UserError
from llm.evaluation.subject import Subject
from llm.evaluation.tasks import Settings
from llm.interop import huggingface
from llm.tokenizer import open_directory, train

lm_eval = pytest.importorskip('lm_eval')
FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'lm_eval'
TASKS = ('capitals', 'sentences', 'sums', 'passages')
ASKED = pytest.mark.parametrize(('name', 'how'), [('llama', 'plain'), ('llama', 'chat'), ('gpt2', 'plain')])


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """The tasks name their data from there."""
    monkeypatch.chdir(FOLDER.parents[2])


def subject_of(name) -> Subject:
    config, params = huggingface.load(FOLDER / name)
    return Subject(config, 0, params, open_directory(FOLDER / name))


@functools.cache
def expected(name, how):
    return json.loads((FOLDER / name / 'expected.json').read_text())[how]


@functools.cache
def measured(name, how):
    from llm.interop import lm_eval as adapter

    loaded = adapter.load_tasks(TASKS, [str(FOLDER / 'tasks')])
    subject = subject_of(name)
    return {task: adapter.measure(task, loaded[task], subject, Settings(chat=how == 'chat')) for task in TASKS}


@ASKED
@pytest.mark.parametrize('task', ['capitals', 'sentences', 'passages'])
def test_log_likelihoods_are_those_of_the_harness_itself(name, how, task):
    wanted = expected(name, how)[task]['answers']
    found = [[answer[0] for answer in sample['resps']] for sample in measured(name, how)[task].samples]
    assert len(wanted) == len(found) > 1
    for ours, theirs in zip(found, wanted):
        assert len(ours) == len(theirs)
        for (a, greedy), (b, their_greedy) in zip(*(map(_pair, x) for x in (ours, theirs))):
            assert greedy == their_greedy
            assert a == pytest.approx(b, abs=1e-4)


@ASKED
def test_texts_are_those_of_the_harness_itself(name, how):
    found = [[answer[0] for answer in sample['resps']] for sample in measured(name, how)['sums'].samples]
    assert found == expected(name, how)['sums']['answers']


@ASKED
@pytest.mark.parametrize('task', TASKS)
def test_metrics_are_those_of_the_harness_itself(name, how, task):
    wanted = expected(name, how)[task]['metrics'].items()
    wanted = {key.removesuffix(',none'): value for key, value in wanted if ',' in key}
    found = {metric.name: metric.value for metric in measured(name, how)[task].metrics}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-6)


def _pair(answer):
    return tuple(answer) if isinstance(answer, list | tuple) else (answer, None)


def test_a_group_is_measured_with_its_tasks():
    from llm.interop import lm_eval as adapter

    loaded = adapter.load_tasks(['both'], [str(FOLDER / 'tasks')])
    result = adapter.measure('both', loaded['both'], subject_of('gpt2'), Settings(limit=3))
    found = {metric.name: metric.value for metric in result.metrics}
    assert next(iter(found)) == 'both: acc' and {'capitals: acc', 'capitals: acc_norm', 'sentences: acc'} < found.keys()
    assert found['both: acc'] == pytest.approx((found['capitals: acc'] + found['sentences: acc']) / 2)
    assert [sample['task'] for sample in result.samples] == ['capitals'] * 3 + ['sentences'] * 3


CONVERSATION = [
    {'role': 'system', 'content': 'Be short.'},
    {'role': 'user', 'content': 'Hi, who are you?'},
    {'role': 'assistant', 'content': 'Nobody.'},
    {'role': 'user', 'content': 'I see.'},
]


def test_our_chat_template_survives_as_text():
    from llm.interop.lm_eval import templates

    tokenizer = train(TokenizerConfig(kind='byte'), 272, ())
    text = templates.render(tokenizer, CONVERSATION)
    assert [1, *templates.encode(tokenizer, text)] == chat.encode_prompt(tokenizer, CONVERSATION)
    begun = templates.render(tokenizer, CONVERSATION[:3], open_end=True)
    ids = chat.encode(tokenizer, CONVERSATION[:3]).ids
    assert [1, *templates.encode(tokenizer, begun)] == ids[:-1]
    for bad, said in (
        ([{'role': 'user', 'content': 'a<|end|>b'}], 'message 1 spells the special token <|end|>'),
        (CONVERSATION[:3], "the last turn is of 'assistant'"),
        ([{'role': 'robot', 'content': 'a'}], 'use system, user or assistant'),
    ):
        with pytest.raises(UserError, match=said.replace('|', '.')):
            templates.render(tokenizer, bad)


def test_with_a_chat_template_every_context_is_a_conversation(monkeypatch):
    """The ids that the model reads are those of the conversation: an example, then the question."""
    from llm.interop import lm_eval as adapter

    subject = subject_of('llama')
    monkeypatch.setattr(type(subject.tokenizer), 'chat_template', None, raising=False)
    tokenizer = train(TokenizerConfig(kind='byte'), 272, ())
    object.__setattr__(subject, 'tokenizer', tokenizer)
    asked = []
    monkeypatch.setattr(
        adapter.GlassboxLM,
        '_loglikelihood_tokens',
        lambda self, requests, *_: asked.extend(requests) or [(0.0, False)] * len(requests),
    )
    loaded = adapter.load_tasks(['capitals'], [str(FOLDER / 'tasks')])
    adapter.measure('capitals', loaded['capitals'], subject, Settings(chat=True, num_fewshot=1))
    ask = lambda country: {'role': 'user', 'content': f'Question: what is the capital of {country}?\nAnswer:'}
    messages = [ask('Spain'), {'role': 'assistant', 'content': 'Madrid'}, ask('France')]
    wanted = chat.encode_prompt(tokenizer, messages)
    assert asked[0][1] == wanted
    assert tokenizer.decode(asked[0][2]).strip() == 'Paris'


def test_arguments_of_drawing():
    from llm.interop.lm_eval.model import _drawing

    sampling, stop, longest = _drawing(
        {'until': ['a', ''], 'max_gen_toks': 3, 'do_sample': False, 'temperature': 0.7}, 5
    )
    assert (sampling.temperature, sampling.seed, stop, longest) == (0.0, 0, ('a',), 3)
    sampling, stop, longest = _drawing({'do_sample': True, 'temperature': 0.7, 'top_p': 0.9, 'top_k': 4}, 5)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.7, 0.9, 4, 5)
    assert (stop, longest) == ((), 256)
    with pytest.raises(UserError, match='asks for num_beams in its generation_kwargs'):
        _drawing({'num_beams': 4}, 0)
    with pytest.raises(UserError, match='top_p is 2'):
        _drawing({'top_p': 2}, 0)


def test_tasks_that_there_are_not(tmp_path):
    from llm.interop import lm_eval as adapter

    with pytest.raises(UserError, match=r'there is no folder .*; --include-path names folders'):
        adapter.load_tasks(['capitals'], [str(tmp_path / 'nothing')])
    (tmp_path / 'broken.yaml').write_text(
        'task: broken\ndataset_path: json\ndataset_kwargs:\n  data_files: none.jsonl\n'
    )
    with pytest.raises(UserError, match='the harness cannot load broken: '):
        adapter.load_tasks(['broken'], [str(tmp_path)])
