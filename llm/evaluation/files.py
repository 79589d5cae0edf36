"""Tasks written down by the user: a JSON object a line, checked before anything is measured.

    multiple choice   {"prompt": "The sky is", "choices": ["blue", "green"], "answer": 0}
                      `answer` is the number of the right choice, from 0, or its text. A `question` instead of the
                      prompt is asked as "Question: ...\\nAnswer:".
    exact match       {"prompt": "2 + 2 =", "answer": "4"}, or several right ones, "answers": ["4", "four"]
    minimal pairs     {"first": "He is a nurse.", "second": "She is a nurse."}, with a common start, if any, in
                      `context`; as in CrowS-Pairs also sent_more and sent_less, as in BLiMP sentence_good and
                      sentence_bad

A prompt may be a conversation that ends with the user's turn: [{"role": "user", "content": "..."}]. A `category` is
reported on by itself. Further fields are kept out.
"""

import contextlib
import glob
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from llm import chat
from llm.config import DataConfig
from llm.data.rows import BadRow, Row, open_rows
from llm.errors import UserError

PAIR_FIELDS = (('first', 'second'), ('sent_more', 'sent_less'), ('sentence_good', 'sentence_bad'))
Prompt = str | list[chat.Message]


class Question(NamedTuple):
    """A prompt with choices."""

    where: str  # FILE:LINE
    category: str | None
    prompt: Prompt
    choices: tuple[str, ...]
    answer: int  # which of them is right


class Exercise(NamedTuple):
    """A prompt with the texts that answer it."""

    where: str
    category: str | None
    prompt: Prompt
    answers: tuple[str, ...]


class MinimalPair(NamedTuple):
    """Two texts that differ in little."""

    where: str
    category: str | None
    context: str  # before both of them, with nothing between; may be empty
    first: str
    second: str


@contextlib.contextmanager
def at(where: str) -> Iterator[None]:
    """Names the row in an error of what is done with it here."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{where}: {error}') from error


def kind_of(path: pathlib.Path, text_field: str) -> str:
    """What kind of task a file holds, by the fields of its first row.

    Args:
        path: a JSONL file.
        text_field: the field of a corpus's text.

    Raises:
        UserError: if it is none of them.
    """
    fields = _rows(path)[0].fields
    if 'choices' in fields:
        return 'multiple_choice'
    if 'answer' in fields or 'answers' in fields:
        return 'exact_match'
    if any(set(names) <= fields.keys() for names in PAIR_FIELDS):
        return 'minimal_pairs'
    if text_field in fields:
        return 'bits_per_byte'
    raise UserError(
        f'{path} is no task: its first row has {", ".join(sorted(fields)) or "no field"}; it needs choices and answer '
        '(multiple choice), prompt and answer (exact match), first and second (minimal pairs) or '
        f'{text_field} (a corpus)'
    )


def read(path: pathlib.Path, kind: str, reads_images: bool = False) -> list[Any]:
    """The rows of a file as `Question`s, `Exercise`s or `MinimalPair`s.

    Args:
        path: a JSONL file.
        kind: of task.
        reads_images: whether the model does; to one that does not, `images` is a field like any other.

    Raises:
        UserError: with FILE:LINE of the first row that is wrong, and all that is.
    """
    parse = {'multiple_choice': _question, 'exact_match': _exercise, 'minimal_pairs': _pair}[kind]
    parsed = []
    for row in _rows(path):
        try:
            if reads_images and 'images' in row.fields:
                raise BadRow('it has images, which no task shows the model; leave them out')
            parsed.append(parse(row.where, _category(row.fields), row.fields))
        except BadRow as error:
            raise UserError(f'{row.where}: {error}') from error
    return parsed


def _rows(path: pathlib.Path) -> list[Row]:
    rows = open_rows(f'jsonl:{glob.escape(str(path))}', DataConfig(bad_bytes='refuse'))
    for row in rows:
        if row.problem:
            raise UserError(f'{row.where}: {row.problem}')
    return rows


def _category(fields: dict[str, Any]) -> str | None:
    category = fields.get('category')
    if category is not None and not isinstance(category, str):
        raise BadRow('the category must be a text')
    return category


def _question(where: str, category: str | None, fields: dict[str, Any]) -> Question:
    prompt = _prompt(fields)
    choices, answer = fields.get('choices'), fields.get('answer')
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise BadRow('choices must be a list of at least two texts, none of them empty')
    if len(set(choices)) < len(choices):
        raise BadRow('two choices are equal')
    if isinstance(answer, str):
        if answer not in choices:
            raise BadRow(f'the answer {answer!r} is none of the choices')
        answer = choices.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise BadRow(
            f'the answer is {answer!r}; it must be the text of a choice, or its number, 0 to {len(choices) - 1}'
        )
    return Question(where, category, prompt, tuple(choices), answer)


def _exercise(where: str, category: str | None, fields: dict[str, Any]) -> Exercise:
    prompt = _prompt(fields)
    if ('answer' in fields) == ('answers' in fields):
        raise BadRow('it needs an answer, or answers, and not both')
    answers = [fields['answer']] if 'answer' in fields else fields['answers']
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise BadRow('an answer must be a text that is not empty, and answers a list of such')
    return Exercise(where, category, prompt, tuple(answers))


def _pair(where: str, category: str | None, fields: dict[str, Any]) -> MinimalPair:
    names = next((names for names in PAIR_FIELDS if set(names) & fields.keys()), PAIR_FIELDS[0])
    first, second, context = fields.get(names[0]), fields.get(names[1]), fields.get('context', '')
    if not all(isinstance(text, str) and text for text in (first, second)):
        raise BadRow(f'it needs {names[0]} and {names[1]}, two texts that are not empty')
    if first == second:
        raise BadRow(f'{names[0]} and {names[1]} are equal')
    if not isinstance(context, str):
        raise BadRow('the context must be a text')
    return MinimalPair(where, category, context, first, second)


def _prompt(fields: dict[str, Any]) -> Prompt:
    if ('prompt' in fields) == ('question' in fields):
        raise BadRow('it needs a prompt or a question, and not both')
    if 'question' in fields:
        if not isinstance(fields['question'], str) or not fields['question'].strip():
            raise BadRow('the question must be a text that is not empty')
        return f'Question: {fields["question"]}\nAnswer:'
    prompt = fields['prompt']
    if isinstance(prompt, str):
        return prompt
    problems = chat.problems(prompt)
    if not problems and prompt[-1]['role'] != 'user':
        problems = ['the prompt must end with a message of the user']
    if problems:
        raise BadRow(*problems)
    return prompt
