"""Continues every prompt of a file, many at a time.

The prompts are JSON lines: {"prompt": text}, or for a model that answers {"messages": [...]} too. What is written for
each goes into a file of JSON lines in the same order: the row as it was, and under "generated" the text, why it ended,
its seed and its numbers of tokens. What already is in a row's other fields stays there.

While it grows the file is called FILE.part, and begins with a line that says what it was made from. The same call goes
on where an earlier one was stopped: after what is there, as it would have gone on. Each text depends on its row, the
settings and its seed alone, not on which others were written beside it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import threading
from collections import deque
from typing import Any, NamedTuple

from absl import logging
from tqdm import tqdm

from llm import chat
from llm.errors import UserError
from llm.inference.decode import check_prompt
from llm.inference.engine import Engine, Handle, Request
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams

FIELD = 'generated'  # of an output row: what was written
_SEEDS = 2**32


@dataclasses.dataclass(frozen=True)
class Settings:
    """How each text is written.

    Attributes:
        sampling: how tokens are drawn; its seed is the first text's, the next text's is one more, and so on.
        max_new_tokens: most tokens of a text.
        num_samples: texts for each prompt.
        stop: strings that end a text.
        answers: whether a prompt is a message, and the text its answer.
    """

    sampling: SamplingParams
    max_new_tokens: int
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    answers: bool = False

    def __post_init__(self):
        if '' in self.stop:
            raise UserError('a stop string is empty; leave it out, or give it at least one character')


class _Task(NamedTuple):
    """A text to write."""

    row: dict[str, Any]
    ids: list[int] | None  # of the prompt; None if it has none that can be read
    error: str | None  # why not
    seed: int


def write_file(
    generator: Generator, prompts: pathlib.Path, out: pathlib.Path, settings: Settings, source: str, slots: int = 16
) -> int:
    """Writes `out`, or what is missing of it.

    A prompt that does not fit gets an "error" in place of a text, and the others go on.

    Args:
        generator: who writes.
        prompts: JSON lines.
        out: JSON lines; must not exist, unless as `out`.part from an earlier call of the same kind.
        settings: how.
        source: what the model is, so that nothing goes on with another.
        slots: texts written at a time.

    Returns:
        How many texts could not be written.

    Raises:
        UserError: for rows that are none, a file that exists, or one that was begun with something else; for a model
            that does not read from left to right.
    """
    if generator.reader is not None:
        raise UserError(
            'a file of prompts takes a model that reads from left to right, and this one reads its prompts as a prefix '
            'or with an encoder; generate with --prompt, or take a run of another objective'
        )
    if out.exists():
        raise UserError(f'{out} exists; move it away, or choose another file')
    rows = read_rows(prompts, settings.answers)
    if generator.model.config.image_size is not None and any('images' in row for row in rows):
        raise UserError(f'{prompts} has rows with images, which a file of prompts does not show; generate with --image')
    tasks = list(_tasks(generator, rows, settings))
    part = out.with_name(out.name + '.part')
    head = {'source': source, 'prompts': _digest(rows), **dataclasses.asdict(settings)}
    done, failed = _open_part(part, json.loads(json.dumps(head)), len(tasks))
    with open(part, 'a', encoding='utf-8') as file:
        fitting = [len(task.ids) for task in tasks[done:] if task.ids is not None]
        if fitting:
            capacity = max(fitting) + settings.max_new_tokens - 1
            engine = Engine(generator, slots=slots, capacity=capacity, max_queue=2 * slots)
            engine.start()
            try:
                failed += _write_all(engine, tasks, done, settings, file)
            finally:
                engine.stop(drain=False)
        else:
            failed += _write_all(None, tasks, done, settings, file)
    _publish(part, out)
    return failed


def read_rows(path: pathlib.Path, answers: bool) -> list[dict[str, Any]]:
    """The rows of a file of prompts.

    Raises:
        UserError: naming the first line that is no prompt.
    """
    try:
        lines = path.read_text(encoding='utf-8').split('\n')  # and not where else Unicode ends a line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the prompts {path} ({getattr(error, "strerror", None) or error})') from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f'{path}:{number} is not JSON ({error}); a line is like {{"prompt": "text"}}') from error
        if problem := _problem(row, answers):
            raise UserError(f'{path}:{number}: {problem}')
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f'{path}:{number} has half of a surrogate pair, which is no character; remove it'
            ) from error
        rows.append(row)
    if not rows:
        raise UserError(f'{path} has no prompts; a line is like {{"prompt": "text"}}')
    return rows


def _problem(row: Any, answers: bool) -> str | None:
    if not isinstance(row, dict) or ('prompt' in row) + ('messages' in row) != 1:
        return 'a row must be an object with either prompt or messages'
    if FIELD in row:
        return f'the row has a field {FIELD!r} already, where the text would go; rename it'
    if 'prompt' in row:
        return None if isinstance(row['prompt'], str) else 'prompt must be a text'
    if not answers:
        return 'messages are for a model that answers; add --chat'
    return '; '.join(chat.problems(row['messages'])) or None


def _tasks(generator: Generator, rows: list[dict[str, Any]], settings: Settings):
    """What is to be written, in order."""
    seed = settings.sampling.seed
    for row in rows:
        ids, error = None, None
        try:
            if settings.answers:
                messages = row.get('messages') or [{'role': 'user', 'content': row['prompt']}]
                ids = chat.encode_prompt(generator.tokenizer, messages)
            else:
                ids = generator.encode(row['prompt'])
            check_prompt(generator.model, ids, settings.max_new_tokens, 'error')
        except UserError as problem:
            error = str(problem)
        for _ in range(settings.num_samples):
            yield _Task(row, ids if error is None else None, error, seed % _SEEDS)
            seed += 1


def _write_all(engine: Engine | None, tasks: list[_Task], done: int, settings: Settings, file) -> int:
    """Writes tasks from number `done` on, in order; returns how many failed."""
    room = threading.Semaphore(0 if engine is None else engine.max_queue)
    waiting: deque[tuple[_Task, Handle | None]] = deque()
    failed = tokens = 0
    with tqdm(total=len(tasks), initial=done, unit='text', disable=None, dynamic_ncols=True) as bar:

        def write_first() -> None:
            nonlocal failed, tokens
            task, handle = waiting.popleft()
            generated = {'seed': task.seed, 'error': task.error}
            if handle is not None:
                found = handle.result()
                generated = {
                    'text': found.text,
                    'finish_reason': found.finish_reason,
                    'seed': task.seed,
                    'prompt_tokens': len(handle.prompt),
                    'new_tokens': len(found.ids),
                }
                if found.finish_reason == 'error':
                    generated['error'] = handle.error
                if found.finish_reason == 'cancelled':
                    raise RuntimeError('the engine was stopped')
                tokens += len(found.ids)
            failed += 'error' in generated
            file.write(json.dumps(task.row | {FIELD: generated}, ensure_ascii=False) + '\n')
            file.flush()
            bar.update()
            bar.set_postfix_str(f'{tokens / max(bar.format_dict["elapsed"], 1e-9):.0f} tokens/s', refresh=False)

        for task in tasks[done:]:
            handle = None
            if task.ids is not None:
                while waiting and (waiting[0][1] is None or waiting[0][1].finish_reason is not None):
                    write_first()
                room.acquire()
                sampling = dataclasses.replace(settings.sampling, seed=task.seed)
                handle = engine.submit(Request(task.ids, sampling, settings.max_new_tokens, settings.stop))
                handle.subscribe(lambda event: room.release() if event is None else None)
            waiting.append((task, handle))
        while waiting:
            write_first()
    return failed


def _open_part(part: pathlib.Path, head: dict[str, Any], total: int) -> tuple[int, int]:
    """Begins the file, or repairs its end; returns how many texts it has, and how many of them failed."""
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(head) + '\n', encoding='utf-8')
        return 0, 0
    content = part.read_bytes()
    lines = content.split(b'\n')
    if lines[-1]:  # a line that was being written
        os.truncate(part, len(content) - len(lines[-1]))
    try:
        first = json.loads(lines[0])
        rows = [json.loads(line)[FIELD] for line in lines[1:-1]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{part} is damaged; remove it to begin anew') from error
    if first != head:
        other = ', '.join(name for name in head if first.get(name) != head[name]) or 'the version'
        raise UserError(f'{part} was begun with other settings ({other}); remove it to begin anew, or use the same')
    logging.info('%s has %d of %d texts; going on', part, len(rows), total)
    return len(rows), sum('error' in row for row in rows)


def _publish(part: pathlib.Path, out: pathlib.Path) -> None:
    """The file under its own name, without the first line, as a whole."""
    temporary = out.with_name(f'{out.name}.{os.getpid()}.tmp')
    with open(part, 'rb') as source, open(temporary, 'wb') as target:
        source.readline()
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    os.replace(temporary, out)
    part.unlink()


def _digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
