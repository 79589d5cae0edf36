"""Rows of tasks: what is read, and the line that is named where one is wrong."""

import json

import pytest

from llm.errors import UserError
from llm.evaluation import files

QUESTION = {'prompt': 'The sky is', 'choices': ['blue', 'green'], 'answer': 0}
EXERCISE = {'prompt': '2 + 2 =', 'answer': '4'}
PAIR = {'first': 'he is', 'second': 'she is'}


def write(folder, *rows):
    path = folder / 'task.jsonl'
    path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows))
    return path


@pytest.mark.parametrize(
    ('row', 'kind'),
    [
        (QUESTION, 'multiple_choice'),
        (EXERCISE, 'exact_match'),
        ({'prompt': 'a', 'answers': ['b']}, 'exact_match'),
        (PAIR, 'minimal_pairs'),
        ({'sent_more': 'a', 'sent_less': 'b'}, 'minimal_pairs'),
        ({'sentence_good': 'a', 'sentence_bad': 'b'}, 'minimal_pairs'),
        ({'text': 'a document'}, 'bits_per_byte'),
    ],
)
def test_the_fields_tell_the_kind(tmp_path, row, kind):
    assert files.kind_of(write(tmp_path, row), 'text') == kind


def test_what_is_read(tmp_path):
    rows = [QUESTION, '', QUESTION | {'answer': 'green', 'category': 'colour', 'id': 3}]
    first, second = files.read(write(tmp_path, *rows), 'multiple_choice')
    assert first == (f'{tmp_path}/task.jsonl:1', None, 'The sky is', ('blue', 'green'), 0)
    assert second == (f'{tmp_path}/task.jsonl:3', 'colour', 'The sky is', ('blue', 'green'), 1)
    asked = {'question': 'Which?', 'choices': ['a', 'b'], 'answer': 1}
    assert files.read(write(tmp_path, asked), 'multiple_choice')[0].prompt == 'Question: Which?\nAnswer:'
    (exercise,) = files.read(write(tmp_path, {'prompt': 'a', 'answers': ['b', 'c']}), 'exact_match')
    assert exercise.answers == ('b', 'c')
    (pair,) = files.read(write(tmp_path, {'sent_more': 'x', 'sent_less': 'y', 'context': 'c '}), 'minimal_pairs')
    assert (pair.context, pair.first, pair.second) == ('c ', 'x', 'y')


def test_rows_with_images_are_refused_where_the_model_would_read_them(tmp_path):
    path = write(tmp_path, EXERCISE | {'images': [[[0.0]]]})
    assert len(files.read(path, 'exact_match')) == 1
    with pytest.raises(UserError, match='it has images, which no task shows'):
        files.read(path, 'exact_match', reads_images=True)


@pytest.mark.parametrize(
    ('kind', 'good', 'bad', 'said'),
    [
        ('multiple_choice', QUESTION, '{"prompt": ', 'it is not JSON'),
        ('multiple_choice', QUESTION, '[1]', 'it is not a JSON object'),
        ('multiple_choice', QUESTION, QUESTION | {'answer': 2}, 'the answer is 2; .* 0 to 1'),
        ('multiple_choice', QUESTION, QUESTION | {'answer': True}, 'the answer is True'),
        ('multiple_choice', QUESTION, QUESTION | {'answer': 'red'}, "'red' is none of the choices"),
        ('multiple_choice', QUESTION, {'prompt': 'a', 'choices': ['a', 'b']}, 'the answer is None'),
        ('multiple_choice', QUESTION, QUESTION | {'choices': ['a']}, 'at least two texts'),
        ('multiple_choice', QUESTION, QUESTION | {'choices': ['a', 'a']}, 'two choices are equal'),
        ('multiple_choice', QUESTION, QUESTION | {'choices': ['a', '']}, 'none of them empty'),
        ('multiple_choice', QUESTION, QUESTION | {'question': 'a'}, 'a prompt or a question, and not both'),
        ('multiple_choice', QUESTION, QUESTION | {'category': 3}, 'the category must be a text'),
        ('multiple_choice', QUESTION, QUESTION | {'prompt': 3}, 'list of at least one message'),
        ('exact_match', EXERCISE, EXERCISE | {'answers': ['4']}, 'an answer, or answers, and not both'),
        ('exact_match', EXERCISE, EXERCISE | {'answer': ' '}, 'a text that is not empty'),
        ('exact_match', EXERCISE, {'prompt': 'a', 'answers': []}, 'a list of such'),
        (
            'exact_match',
            EXERCISE,
            EXERCISE | {'prompt': [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]},
            'must end with a message of the user',
        ),
        ('minimal_pairs', PAIR, {'first': 'a'}, 'it needs first and second'),
        ('minimal_pairs', PAIR, {'sent_more': 'a', 'sent_less': ''}, 'it needs sent_more and sent_less'),
        ('minimal_pairs', PAIR, {'first': 'a', 'second': 'a'}, 'are equal'),
        ('minimal_pairs', PAIR, PAIR | {'context': 1}, 'the context must be a text'),
    ],
)
def test_a_wrong_row_is_named(tmp_path, kind, good, bad, said):
    with pytest.raises(UserError, match=f'task.jsonl:2: .*{said}') as error:
        files.read(write(tmp_path, good, bad), kind)
    assert '\n' not in str(error.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match='is no task: its first row has a, b; it needs choices'):
        files.kind_of(write(tmp_path, {'a': 1, 'b': 2}), 'text')
    with pytest.raises(UserError, match='has no rows'):
        files.kind_of(write(tmp_path, ''), 'text')
    path = tmp_path / 'latin.jsonl'
    path.write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(UserError, match=r'latin\.jsonl is not UTF-8 at byte 13'):
        files.kind_of(path, 'text')
