"""What `--tasks` names: a corpus, a file of the user's, or a task of lm-evaluation-harness.

python_stdlib, text:GLOB, jsonl:GLOB, tfds:NAME   a corpus, as in `data.corpora`: bits per byte
FOLDER                                            all files in it, each a document: bits per byte
FILE.jsonl                                        by its fields: multiple choice, exact match, minimal pairs, or a
                                                  corpus of a document a line (see `llm.evaluation.files`)
FILE.yaml, and every other name                   a task of lm-evaluation-harness; `lm_eval:NAME` is always one
FILE                                              any other file is one document: bits per byte
"""

import glob
import hashlib
import os
import pathlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llm.config import DataConfig
from llm.data.corpora import Corpus, open_corpus, open_folder
from llm.errors import UserError
from llm.evaluation import corpus, exact_match, files, minimal_pairs, multiple_choice
from llm.evaluation.results import Result
from llm.evaluation.subject import Subject

HARNESS = 'lm_eval:'
_CORPORA = ('text', 'jsonl', 'tfds')


@dataclass(frozen=True)
class Settings:
    """How tasks are measured; each field concerns some kinds of task.

    Attributes:
        limit: samples of each task, the first ones; None is all.
        chat: ask as a message of the user what is not a conversation already.
        num_fewshot: examples before each sample of a harness task; None is what the task says.
        max_new_tokens: longest answer of an exact match.
        until: texts that end one.
        stride: tokens between the starts of windows of a corpus; None is a whole window.
        bins: of calibration.
        include_path: folders with tasks for the harness.
    """

    limit: int | None = None
    chat: bool = False
    num_fewshot: int | None = None
    max_new_tokens: int = 64
    until: tuple[str, ...] = ('\n',)
    stride: int | None = None
    bins: int = 15
    include_path: tuple[str, ...] = ()


# Which settings a kind of task knows, beside the limit.
CONCERNS = {
    'bits_per_byte': ('stride', 'bins'),
    'multiple_choice': ('chat', 'bins'),
    'exact_match': ('chat', 'max_new_tokens', 'until'),
    'minimal_pairs': (),
    'lm_eval': ('chat', 'num_fewshot', 'include_path'),
}


@dataclass(frozen=True)
class Task:
    """Something to measure, checked as far as it can be before a model is there.

    Attributes:
        name: as asked for.
        kind: one of `CONCERNS`.
        content: a `corpus.Text`, the rows of a file, or the name of a harness task.
        digest: changes when the content does; '' where that is not known.
    """

    name: str
    kind: str
    content: Any
    digest: str

    def depends_on(self, settings: Settings) -> dict[str, Any]:
        """What the result follows from, beside the model."""
        values = {name: getattr(settings, name) for name in ('limit', *CONCERNS[self.kind])}
        return {'kind': self.kind, 'data': self.digest, **values}

    @property
    def unit(self) -> str:
        """What the progress bar counts."""
        names = {
            'bits_per_byte': 'token',
            'multiple_choice': 'choice',
            'exact_match': 'prompt',
            'minimal_pairs': 'text',
        }
        return names[self.kind]

    @property
    def total(self) -> int | None:
        """How many of them there are; None where that is found out on the way."""
        if self.kind == 'bits_per_byte':
            return None
        if self.kind == 'multiple_choice':
            return sum(len(question.choices) for question in self.content)
        return len(self.content) * (2 if self.kind == 'minimal_pairs' else 1)

    def measure(self, subject: Subject, settings: Settings, progress: Any) -> Result:
        """Does it; `progress` is told how many units are done.

        Raises:
            UserError: if something does not fit the model.
        """
        if self.kind == 'bits_per_byte':
            extra = {'stride': settings.stride, 'bins': settings.bins}
            return corpus.measure(self.name, self.content, subject, **extra, progress=progress)
        if self.kind == 'multiple_choice':
            extra = {'as_chat': settings.chat, 'bins': settings.bins}
            return multiple_choice.measure(self.name, self.content, subject, **extra, progress=progress)
        if self.kind == 'exact_match':
            extra = {'as_chat': settings.chat, 'max_new_tokens': settings.max_new_tokens, 'until': settings.until}
            return exact_match.measure(self.name, self.content, subject, **extra, progress=progress)
        return minimal_pairs.measure(self.name, self.content, subject, progress=progress)


def resolve(
    name: str, data: DataConfig, trained_on: Collection[str], settings: Settings, reads_images: bool = False
) -> Task:
    """Finds what a name stands for, and reads and checks the user's rows.

    Args:
        name: an entry of `--tasks`.
        data: of the run.
        trained_on: corpora that are measured on what they hold out.
        settings: the limit cuts the rows.
        reads_images: whether the model does; no task shows it any.

    Raises:
        UserError: if it cannot be read, or a row is wrong.
    """
    kind, colon, _ = name.partition(':')
    if name.startswith(HARNESS):
        return Task(name, 'lm_eval', name.removeprefix(HARNESS), '')
    if name == 'python_stdlib' or (colon and kind in _CORPORA):
        return _corpus(name, open_corpus(name, data), trained_on, settings)
    path = pathlib.Path(os.path.expanduser(name))
    if path.is_dir():
        return _corpus(name, open_folder(path, data), trained_on, settings)
    if not path.is_file():
        if os.sep in name or path.suffix in ('.jsonl', '.txt', '.yaml', '.yml'):
            raise UserError(f'there is no file {name}; check the path')
        return Task(name, 'lm_eval', name, '')
    if path.suffix in ('.yaml', '.yml'):
        return Task(name, 'lm_eval', str(path), _digest(path))
    if path.suffix != '.jsonl':
        return _corpus(name, open_corpus(f'text:{glob.escape(str(path))}', data), trained_on, settings)
    kind = files.kind_of(path, data.text_field)
    if kind == 'bits_per_byte':
        return _corpus(name, open_corpus(f'jsonl:{glob.escape(str(path))}', data), trained_on, settings)
    return Task(name, kind, files.read(path, kind, reads_images)[: settings.limit], _digest(path))


def check(tasks: Sequence[Task], settings: Settings, given: Sequence[str]) -> None:
    """Refuses settings that are out of range, or that were given and concern none of the tasks.

    Args:
        tasks: all of them.
        settings: with the values.
        given: the settings that were set on purpose.

    Raises:
        UserError: naming the option.
    """
    for name, least in (('limit', 1), ('num_fewshot', 0), ('max_new_tokens', 1), ('stride', 1), ('bins', 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UserError(f'--{name.replace("_", "-")} is {value}; it must be at least {least}')
    if '' in settings.until:
        raise UserError('an --until text is empty; leave it out, or give it at least one character')
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'--tasks names {name} twice; name it once')
    for name in given:
        if name != 'limit' and not any(name in CONCERNS[task.kind] for task in tasks):
            kinds = ' or '.join(kind.replace('_', ' ') for kind, known in CONCERNS.items() if name in known)
            raise UserError(f'--{name.replace("_", "-")} concerns {kinds}, and no task is of that kind; leave it out')


def _corpus(name: str, opened: Corpus, trained_on: Collection[str], settings: Settings) -> Task:
    held_out = opened.source in trained_on
    text = corpus.Text(opened, held_out, settings.limit)
    return Task(name, 'bits_per_byte', text, f'{opened.fingerprint} {"held out" if held_out else "all"}')


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
