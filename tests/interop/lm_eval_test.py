"""lm-evaluation-harness on our models says what it says with its own `hf` model on the same weights."""

import functools

import lm_eval_models as models
import pytest

from llm.evaluation.tasks import Settings

lm_eval = pytest.importorskip('lm_eval')
TASKS = ('capitals', 'sentences', 'sums', 'passages')


@functools.cache
def measured(name):
    from llm.interop import lm_eval as adapter

    loaded = adapter.load_tasks(TASKS, [str(models.FOLDER / 'tasks')])
    subject = models.subject(name)
    return {task: adapter.measure(task, loaded[task], subject, Settings()) for task in TASKS}


@pytest.mark.parametrize('name', ['llama', 'gpt2'])
@pytest.mark.parametrize('task', ['capitals', 'sentences', 'passages'])
def test_log_likelihoods_are_those_of_the_harness_itself(name, task):
    wanted = models.expected(name)[task]['answers']
    found = [[answer[0] for answer in sample['resps']] for sample in measured(name)[task].samples]
    assert len(wanted) == len(found) > 1
    for ours, theirs in zip(found, wanted):
        assert len(ours) == len(theirs)
        for (a, greedy), (b, their_greedy) in zip(*(map(_pair, x) for x in (ours, theirs))):
            assert greedy == their_greedy
            assert a == pytest.approx(b, abs=1e-4, rel=1e-6)


@pytest.mark.parametrize('name', ['llama', 'gpt2'])
def test_texts_are_those_of_the_harness_itself(name):
    found = [[answer[0] for answer in sample['resps']] for sample in measured(name)['sums'].samples]
    assert found == models.expected(name)['sums']['answers']


@pytest.mark.parametrize('name', ['llama', 'gpt2'])
@pytest.mark.parametrize('task', TASKS)
def test_metrics_are_those_of_the_harness_itself(name, task):
    wanted = {k.removesuffix(',none'): v for k, v in models.expected(name)[task]['metrics'].items() if ',' in k}
    found = {metric.name: metric.value for metric in measured(name)[task].metrics}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-6)


def _pair(answer):
    return tuple(answer) if isinstance(answer, list | tuple) else (answer, None)
