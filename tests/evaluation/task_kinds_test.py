"""Each kind of task, against likelihoods and texts of the model alone."""

import dataclasses
import json
import math

import imported_families
import numpy as np
import pytest

from llm import chat
from llm.config import DataConfig
from llm.errors import UserError
from llm.evaluation import tasks
from llm.evaluation.tasks import Settings, check, resolve
from llm.inference.sampling import SamplingParams
from llm.tokenizer import open_directory


def jsonl(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


def measure(name, subject, **settings):
    settings = Settings(**settings)
    task = resolve(name, subject.config.data, (), settings)
    done = []
    result = task.measure(subject, settings, done.append)
    assert task.total is None or sum(done) == task.total
    return result, {metric.name: metric for metric in result.metrics}


def summed(log_likelihood, subject, before, after):
    ids = chat.encode_text(subject.tokenizer, before + after)
    return sum(log_likelihood(ids)[-len(after.encode()) :])


def test_multiple_choice(tmp_path, subject, log_likelihood):
    rows = [
        {'prompt': 'The sky is', 'choices': ['blue', 'greenish', 'a'], 'answer': 0, 'category': 'x'},
        {'prompt': 'ends in a space ', 'choices': ['one', 'two'], 'answer': 'two', 'category': 'y'},
        {'question': 'Which?', 'choices': ['this one', 'that'], 'answer': 1, 'category': 'x'},
        {'prompt': '', 'choices': ['start', 'begin'], 'answer': 1},
    ]
    result, found = measure(jsonl(tmp_path / 'mc.jsonl', rows), subject, bins=5)
    right, right_per_byte, brier, confidences = [], [], [], []
    for row, sample in zip(rows, result.samples):
        prompt = row.get('prompt', 'Question: Which?\nAnswer:')
        # A space that ends the prompt counts as the choice's; one is put between if there is none.
        space = ' ' if prompt else ''
        logprobs = [summed(log_likelihood, subject, prompt.rstrip(), space + c) for c in row['choices']]
        assert sample['logprobs'] == pytest.approx(logprobs, abs=1e-4)
        answer = row['answer'] if isinstance(row['answer'], int) else row['choices'].index(row['answer'])
        p = np.exp(logprobs) / np.sum(np.exp(logprobs))
        right.append(np.argmax(logprobs) == answer)
        right_per_byte.append(np.argmax([x / len(c) for x, c in zip(logprobs, row['choices'])]) == answer)
        brier.append(np.sum((p - np.eye(len(p))[answer]) ** 2))
        confidences.append(max(p))
        assert sample['confidence'] == pytest.approx(max(p), abs=1e-4)
    assert found['accuracy'].value == np.mean(right) and found['accuracy'].samples == 4
    assert found['accuracy_per_byte'].value == np.mean(right_per_byte)
    assert found['accuracy'].error == pytest.approx(np.std(right, ddof=1) / 2)
    assert found['brier_score'].value == pytest.approx(np.mean(brier), abs=1e-4)
    bins = np.minimum((np.array(confidences) * 5).astype(int), 4)
    error = sum(abs(sum(np.array(right)[bins == b]) - sum(np.array(confidences)[bins == b])) for b in range(5)) / 4
    assert found['calibration_error'].value == pytest.approx(error, abs=1e-4)
    assert sum(row['count'] for row in result.reliability) == 4
    assert {metric.name: (metric.value, metric.samples) for metric in result.groups} == {
        'x': ((right[0] + right[2]) / 2, 2),
        'y': (right[1], 1),
    }


def test_choices_after_a_conversation_follow_its_ids(tmp_path, subject, log_likelihood):
    messages = [{'role': 'user', 'content': 'Hi'}]
    rows = [{'prompt': messages, 'choices': ['yes', 'no'], 'answer': 0}]
    spoken, _ = measure(jsonl(tmp_path / 'mc.jsonl', rows), subject)
    asked, _ = measure(jsonl(tmp_path / 'as.jsonl', [rows[0] | {'prompt': 'Hi'}]), subject, chat=True)
    ids, choices = chat.encode_prompt(subject.tokenizer, messages), map(subject.tokenizer.encode, ('yes', 'no'))
    wanted = [sum(log_likelihood([*ids, *choice])[-len(choice) :]) for choice in choices]
    assert spoken.samples[0]['logprobs'] == pytest.approx(wanted, abs=1e-4)
    assert asked.samples[0]['logprobs'] == pytest.approx(wanted, abs=1e-4)


def test_minimal_pairs(tmp_path, subject, log_likelihood):
    rows = [
        {'first': 'he is a nurse', 'second': 'she is a nurse', 'category': 'work'},
        {'sent_more': 'abc', 'sent_less': 'a longer text', 'context': 'So: '},
        {'first': 'zzz', 'second': 'aaa'},
    ]
    result, found = measure(jsonl(tmp_path / 'pairs.jsonl', rows), subject)
    differences, per_byte = [], []
    for row, sample in zip(rows, result.samples):
        texts = [row.get('first', row.get('sent_more')), row.get('second', row.get('sent_less'))]
        context = row.get('context', '')
        # The space that ends the context counts as the text's.
        shift = len(context) - len(context.rstrip())
        wanted = [
            summed(log_likelihood, subject, context.rstrip(), context[-shift or len(context) :] + t) for t in texts
        ]
        assert sample['logprobs'] == pytest.approx(wanted, abs=1e-4)
        differences.append(wanted[0] - wanted[1])
        per_byte.append(wanted[0] / len(texts[0]) - wanted[1] / len(texts[1]))
    assert found['preference_rate'].value == np.mean(np.array(differences) > 0)
    assert found['preference_rate_per_byte'].value == np.mean(np.array(per_byte) > 0)
    assert found['log_likelihood_difference'].value == pytest.approx(np.mean(differences), abs=1e-4)
    assert 0 <= found['preference_rate'].low <= found['preference_rate'].value <= found['preference_rate'].high <= 1
    assert [group.name for group in result.groups] == ['work']


def test_exact_match(tmp_path, subject):
    """The answers are what the model writes alone, but for one, which is wrong, and one in other letters."""
    prompts = ['one', 'two is longer', 'three', 'four']
    greedy = SamplingParams(temperature=0.0)
    written = [subject.generator.generate([p], greedy, max_new_tokens=5, stop=('\n',))[0].text for p in prompts]
    rows = [{'prompt': p, 'answers': ['?', w or 'x']} for p, w in zip(prompts, written)]
    rows[1]['answers'] = ['no']
    result, found = measure(jsonl(tmp_path / 'em.jsonl', rows), subject, max_new_tokens=5)
    assert [sample['written'] for sample in result.samples] == written
    wanted = [w.strip() in [a.strip() for a in row['answers']] for row, w in zip(rows, written)]
    assert wanted.count(True) >= 2 and not wanted[1]
    assert found['exact_match'].value == np.mean(wanted) and found['exact_match'].samples == 4


@pytest.mark.parametrize('text', ['The  Answer, is: a 4.', 'answer is 4', 'ANSWER is an 4!'])
def test_normalised(text):
    from llm.evaluation.exact_match import normalised

    assert normalised(text) == 'answer is 4' and normalised('five') != normalised('four')


@pytest.mark.parametrize(
    ('text', 'answer', 'right'),
    [
        ('', 'a', False),
        ('a', 'A', True),
        ('A.', 'a', True),
        ('the', 'a', False),
        ('the answer', 'Answer!', True),
        ('', '+', False),
        ('-', '+', False),
        (' +', '+', True),
        ('!', 'the', False),
    ],
)
def test_an_answer_of_articles_or_punctuation_is_not_nothing(text, answer, right):
    from llm.evaluation.exact_match import equal_normalised

    assert equal_normalised(text, answer) is right


def test_bits_per_byte_of_files_folders_and_lines(tmp_path, subject, log_likelihood):
    texts = ['A first text, longer than one window of thirty-two tokens.\n', 'Zwei: äöü', 'three']
    folder = tmp_path / 'corpus'
    (folder / 'sub').mkdir(parents=True)
    for name, text in zip(('a.txt', 'b.md', 'sub/c'), texts):
        (folder / name).write_text(text)
    (folder / 'picture.png').write_bytes(b'\x89PNG\0\0')
    lines = jsonl(tmp_path / 'lines.jsonl', [{'text': text} for text in texts])
    result, found = measure(str(folder), subject)
    by_line, _ = measure(lines, subject)
    assert [sample['document'] for sample in result.samples] == ['a.txt', 'b.md', 'sub/c']
    assert [sample['nats'] for sample in by_line.samples] == [sample['nats'] for sample in result.samples]

    # The stream is cut into windows of 32 targets, and in each a document's part is read alone.
    stream, owner = [], []
    for number, text in enumerate(texts):
        ids = [1, *subject.tokenizer.encode(text), 2]
        stream, owner = stream + ids, owner + [number] * len(ids)
    nats = [0.0] * 3
    for start in range(0, len(stream) - 1, 32):
        first = start
        for i in range(start, min(start + 32, len(stream) - 1)):
            if stream[i] == 1:
                first = i
            if stream[i + 1] != 1:
                nats[owner[i + 1]] -= log_likelihood(stream[first : i + 2])[-1]
    assert [sample['nats'] for sample in result.samples] == pytest.approx(nats, abs=1e-3)
    size = sum(len(text.encode()) for text in texts)
    assert found['bits_per_byte'].value == pytest.approx(sum(nats) / math.log(2) / size, rel=1e-5)
    assert found['bits_per_byte'].error > 0 and found['loss'].value == pytest.approx(sum(nats) / (size + 3), rel=1e-5)
    assert sum(row['count'] for row in result.reliability) == size + 3

    one, only = measure(str(folder / 'b.md'), subject)
    assert one.samples[0]['bytes'] == len(texts[1].encode()) and only['bits_per_byte'].error is None
    assert len(measure(str(folder), subject, limit=2)[0].samples) == 2
    strided, _ = measure(str(folder), subject, stride=8)
    assert [s['tokens'] for s in strided.samples] == [s['tokens'] for s in result.samples]
    assert strided.samples[0]['nats'] != result.samples[0]['nats']


def test_equal_documents_count_once_and_own_corpora_only_where_held_out(tmp_path, subject):
    for i in range(60):
        (tmp_path / f'{i}.txt').write_text(f'text {i % 50}')
    source = f'text:{tmp_path}/*.txt'
    everything = resolve(source, DataConfig(), (), Settings())
    own = resolve(source, DataConfig(), {source}, Settings())
    whole, part = (task.measure(subject, Settings(), lambda n: None) for task in (everything, own))
    assert len(whole.samples) == 50 and whole.facts['equal documents left out'] == 10
    assert 0 < len(part.samples) < 10 and part.facts['of them measured'] == 'the held-out ones'
    assert everything.digest != own.digest


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('nothing/here.jsonl', 'there is no file nothing/here.jsonl'),
        ('text:/nowhere/*.txt', 'matches no file'),
    ],
)
def test_what_is_not_there_is_said(name, said):
    with pytest.raises(UserError, match=said):
        resolve(name, DataConfig(), (), Settings())


def test_texts_that_do_not_fit_are_named(tmp_path, subject):
    long = 'x' * 70
    for row, said in (
        ({'prompt': 'a', 'choices': [long, 'b'], 'answer': 0}, 'a choice does not fit'),
        ({'prompt': long, 'answer': 'b'}, 'a prompt of 71 tokens'),
        ({'first': long, 'second': 'b'}, 'the text is longer than the model'),
    ):
        with pytest.raises(UserError, match=f'task.jsonl:1: {said}'):
            measure(jsonl(tmp_path / 'task.jsonl', [row]), subject)
    cut, _ = measure(jsonl(tmp_path / 'cut.jsonl', [{'prompt': long, 'choices': ['a', 'b'], 'answer': 0}]), subject)
    assert cut.facts['prompts cut to fit the context'] == 1


def test_texts_that_the_tokenizer_refuses_are_named(tmp_path, subject):
    imported = open_directory(imported_families.write('llama2', tmp_path / 'tokenizer'))
    other = dataclasses.replace(subject, tokenizer=imported)
    for good, bad, said in (
        ({'prompt': 'a', 'choices': ['a', 'b'], 'answer': 0}, {'choices': ['a', '</s>']}, 'message 2 spells'),
        ({'prompt': 'a', 'answer': 'b'}, {'prompt': '</s>'}, 'message 1 spells'),
    ):
        with pytest.raises(UserError, match=f'task.jsonl:2: {said}') as raised:
            measure(jsonl(tmp_path / 'task.jsonl', [good, good | bad]), other, chat=True)
        assert '\n' not in str(raised.value)


def test_options_that_concern_no_task_are_refused(tmp_path):
    pairs = resolve(jsonl(tmp_path / 'p.jsonl', [{'first': 'a', 'second': 'b'}]), DataConfig(), (), Settings())
    for name in ('chat', 'num_fewshot', 'max_new_tokens', 'until', 'stride', 'bins', 'include_path'):
        with pytest.raises(UserError, match=f'--{name.replace("_", "-")} concerns .* no task is of that kind'):
            check([pairs], Settings(), [name])
    check([pairs], Settings(limit=1), ['limit'])
    with pytest.raises(UserError, match='--limit is 0; it must be at least 1'):
        check([pairs], Settings(limit=0), ['limit'])
    with pytest.raises(UserError, match='twice'):
        check([pairs, pairs], Settings(), [])
    known = {name for names in tasks.CONCERNS.values() for name in names} | {'limit'}
    assert known == set(Settings.__dataclass_fields__)
