"""A page of one prompt in one file: the answers to what the page asks first, computed now."""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import tqdm
from absl import logging

from llm.errors import UserError
from llm.explorer import bundle
from llm.explorer.arrays import dumps, unpacked
from llm.explorer.bundle import PAGE
from llm.explorer.explorer import LENS_POSITIONS, SAMPLING, WINDOW, Explorer
from llm.workdir import write_atomically

MOST_BYTES = 48 * 2**20  # of answers; a browser opens that without trouble
POSITIONS = 32  # last positions of which every layer is shown
DRAWN = 16  # tokens written behind the prompt
ATTRIBUTED = 5  # most probable next tokens whose logits are taken apart

Question = tuple[str, dict[str, Any]]  # path behind /api/traces/ID/ and its fields


@dataclass
class Collection:
    """Answers by the names that the page asks for them.

    Attributes:
        responses: what `window.GLASSBOX_DATA.responses` holds.
        bytes: their size as JSON.
        left_out: questions that were not asked any more, for want of room.
    """

    explorer: Explorer
    responses: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    left_out: int = 0

    def ask(self, method: str, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Puts a question and keeps the answer."""
        answer = self.explorer.answer(method, path.removeprefix('/api/'), fields)
        self.responses[bundle.key(method, path, fields)] = answer
        self.bytes += len(dumps(answer))
        return answer

    def maybe(self, path: str, fields: dict[str, Any]) -> None:
        """The same of a view, if there is room left."""
        if self.bytes < MOST_BYTES:
            self.ask('GET', path, fields)
        else:
            self.left_out += 1


def write(explorer: Explorer, prompt: str, step: int, out: pathlib.Path) -> Collection:
    """Writes the page of a prompt.

    Args:
        explorer: of one run.
        prompt: what is read.
        step: checkpoint.
        out: the file to write.

    Returns:
        What is in it.

    Raises:
        UserError: for a prompt that the model cannot read, or a file that cannot be written.
    """
    found = collect(explorer, prompt, step)
    data = {'start': {'run': 0, 'step': step, 'prompt': prompt}, 'responses': found.responses}
    try:
        write_atomically(out, bundle.whole(PAGE, data))
    except OSError as error:
        raise UserError(f'cannot write {out}: {error.strerror or error}') from error
    return found


def collect(explorer: Explorer, prompt: str, step: int) -> Collection:
    """Asks what the page of a prompt asks, the most wanted first, until there is enough."""
    found = Collection(explorer)
    ask = found.ask
    card = ask('GET', '/api/models', {})['models'][0]
    ask('GET', '/api/sources', {})
    trace = ask('POST', '/api/traces', {'edits': [], 'prompt': prompt, 'run': 0, 'step': step})
    ask('POST', '/api/tokenize', {'prompt': prompt, 'run': 0})
    base = f'/api/traces/{trace["trace"]}'
    last = trace['length'] - 1
    logits = unpacked(ask('GET', f'{base}/logits', {'position': last})['logits'])
    best = [int(i) for i in (-logits).argsort(kind='stable')[:ATTRIBUTED]]
    for token in dict.fromkeys(token['id'] for token in trace['tokens']):
        ask('GET', '/api/neighbours', {'count': 8, 'run': 0, 'step': step, 'token': token})
    for token in best:
        found.maybe(f'{base}/attribution', {'position': last, 'token': token})
    for moment in card['steps']:
        try:
            ask('POST', '/api/moments', {'prompt': prompt, 'run': 0, 'step': moment, 'token': best[0]})
        except UserError as error:  # an older checkpoint is damaged, or a run that trains has removed it since
            logging.warning('without checkpoint %d: %s', moment, error)
    _write_on(found, prompt, step)
    questions = list(views(card, trace['length']))
    for path, fields in tqdm.tqdm(questions, desc='reading the model', unit='view', disable=None):
        found.maybe(f'{base}/{path}', fields)
    return found


def views(card: dict[str, Any], length: int) -> Iterator[Question]:
    """What the page asks of a trace of `length` tokens, the most wanted first.

    Args:
        card: of the run, as /api/models has it.
        length: of the prompt.
    """
    layers, recent = range(card['layers']), range(length - 1, max(-1, length - 1 - POSITIONS), -1)
    neurons = lambda position: (
        ('neurons', {'count': 12, 'layer': layer, 'position': position})
        for layer in layers
        if card['feed_forward_width']
    )
    yield from (('heads', {'layer': layer}) for layer in layers)
    for start in range(0, length, LENS_POSITIONS):
        yield 'lens', {'count': 5, 'from': start, 'to': min(start + LENS_POSITIONS, length)}
    yield from (('block', {'layer': layer, 'position': length - 1}) for layer in layers)
    yield from neurons(length - 1)
    yield from ((name, {'position': position}) for name in ('embedding', 'logits') for position in recent)
    yield from (('block', {'layer': layer, 'position': position}) for position in recent for layer in layers)
    for layer in layers:
        for head in range(card['heads']):
            for query in range(0, length, WINDOW):
                for key in range(0, query + 1, WINDOW):
                    yield 'pattern', {'head': head, 'key': key, 'layer': layer, 'query': query, 'size': WINDOW}
    yield from (('attends', {'layer': layer, 'position': position}) for layer in layers for position in recent)
    for position in recent:
        yield from neurons(position)


def _write_on(found: Collection, prompt: str, step: int) -> None:
    """A few tokens drawn behind the prompt; the page, too, asks for them one by one."""
    sampling = {name: int(value) for name, value in SAMPLING.items()}  # 1.0 is 1 in the page's language
    start = {'edits': [], 'prompt': prompt, 'run': 0, 'sampling': sampling, 'step': step}
    session = found.ask('POST', '/api/sessions', start)['session']
    path, body = f'/api/sessions/{session}/next', {'count': 1}
    steps = []
    while len(steps) < DRAWN and not (steps and steps[-1]['stopped']):
        steps.append(found.explorer.answer('POST', path.removeprefix('/api/'), body))
    found.responses[bundle.key('POST', path, body)] = {'steps_in_file': steps}
