"""What the page asks, and the answers: paths and fields in, plain JSON out. Nothing here knows of HTTP."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import llm
from llm.analysis.lens.activations import full_precision
from llm.errors import UserError
from llm.explorer import arrays, blocks, comparisons, readings, sources
from llm.explorer.edits import SITES, Change, Patch, Scale, require
from llm.explorer.fields import Fields
from llm.explorer.layers import AT_ONCE as LENS_POSITIONS
from llm.explorer.runs import Run, Runs
from llm.explorer.sessions import MOST_STEPS, Sessions, sampling_params
from llm.explorer.traces import Spec, Traces

DEFAULT_PROMPT = 'def read_lines(path):\n    with open(path) as file:\n        return '
MOST_PROMPT_BYTES = 2**18
MOST_LISTED = 4096  # tokens of one answer
WINDOW = 128  # of a pattern, as the page asks for it

SAMPLING = {'temperature': 1.0, 'top_k': 0, 'top_p': 1.0, 'min_p': 0.0, 'repetition_penalty': 1.0, 'seed': 0}


class NotFound(UserError):
    """There is no such path, trace or session."""


class Explorer:
    """The page's other half. Not for several threads at once, but one may write on (`sessions`) while another looks."""

    def __init__(self, runs: Runs, prompt: str = DEFAULT_PROMPT):
        """
        Args:
            runs: what is shown.
            prompt: that the page starts with.

        Raises:
            UserError: for a prompt that is not text.
        """
        check_text(prompt)
        self.runs, self.prompt = runs, prompt
        self.traces, self.sessions = Traces(runs), Sessions(runs)
        self._routes: dict[tuple[str, ...], Callable[..., Any]] = {
            ('GET', 'models'): self._models,
            ('GET', 'sources'): self._sources,
            ('POST', 'tokenize'): self._tokenize,
            ('GET', 'tokens'): self._tokens,
            ('GET', 'vocabulary'): self._vocabulary,
            ('GET', 'neighbours'): self._neighbours,
            ('POST', 'traces'): self._trace,
            ('GET', 'traces', '*'): self._again,
            ('POST', 'sessions'): self._start,
            ('POST', 'sessions', '*', 'next'): self._next,
            ('POST', 'moments'): self._moment,
            ('POST', 'comparisons'): self._compare,
        }
        views = {
            'embedding': (blocks.embedding, ('position',)),
            'block': (blocks.block, ('layer', 'position')),
            'heads': (blocks.heads, ('layer',)),
            'pattern': (blocks.pattern, ('layer', 'head', 'query', 'key', 'size')),
            'map': (blocks.overview, ('layer', 'head', 'size')),
            'attends': (blocks.attends, ('layer', 'position')),
            'neurons': (readings.neurons, ('layer', 'position', 'count')),
            'neuron': (readings.neuron, ('layer', 'neuron')),
            'lens': (self._lens, ('from', 'to', 'count', 'token')),
            'attribution': (readings.attribution, ('position', 'token', 'against')),
            'attribution/neurons': (
                readings.neuron_attribution,
                ('layer', 'position', 'token', 'against', 'count'),
            ),
            'logits': (readings.logits, ('position',)),
        }
        for name, (view, numbers) in views.items():
            answer = functools.partial(self._view, view, numbers)
            self._routes['GET', 'traces', '*', *name.split('/')] = answer
        self._routes['GET', 'traces', '*', 'cut'] = self._cut

    def answer(self, method: str, path: str, fields: Any) -> dict[str, Any]:
        """Answers a request.

        Args:
            method: 'GET' or 'POST'.
            path: behind /api/.
            fields: the query, or the body's JSON.

        Raises:
            NotFound: if there is no such path, trace or session.
            UserError: for whatever else is wrong with it.
        """
        parts = (method, *path.split('/'))
        for pattern, route in self._routes.items():
            if len(pattern) == len(parts) and all(known in ('*', part) for known, part in zip(pattern, parts)):
                named = (part for known, part in zip(pattern, parts) if known == '*')
                with contextlib.nullcontext() if parts[1] == 'sessions' else full_precision():
                    return route(Fields(fields), *named)
        raise NotFound(f'there is no {method} /api/{path[:100]} here')

    def spec(self, fields: Fields) -> Spec:
        """The trace that `run`, `step`, `prompt` or `tokens`, and `edits` mean."""
        number = fields.integer('run', 0)
        run, tokens = self.runs[number], self._prompt(self.runs[number], fields)
        step = fields.integer('step', None)
        asked = fields.items('edits', [])
        step = self._step(run, step)
        return Spec(number, step, tokens, tuple(self._change(run, edit, len(tokens)) for edit in asked))

    def _step(self, run: Run, step: int | None) -> int:
        steps = run.steps()
        if not steps:
            raise UserError(f'{run.workdir.path} has no checkpoint any more')
        if step is not None and step not in steps:
            listed = ', '.join(map(str, steps))
            raise UserError(f'{run.workdir.path} has no checkpoint {step}; it has {listed}')
        return steps[-1] if step is None else step

    def _prompt(self, run: Run, fields: Fields) -> tuple[int, ...]:
        text, ids = fields.text('prompt', None), fields.items('tokens', None)
        if (text is None) == (ids is None):
            raise UserError('give either prompt, a text, or tokens, a list of ids')
        if ids is None:
            return encode(run, text)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise UserError('tokens must be a list of whole numbers')
        return tuple(ids)

    def _change(self, run: Run, edit: Any, length: int) -> Change:
        fields = Fields(edit, 'edits')
        kind = fields.text('kind')
        if kind not in ('patch', *SITES) or kind == 'residual':
            raise UserError(f'there is no edit {kind[:40]!r}; there are head, neuron, attention, feed_forward, patch')
        part = fields.text('site') if kind == 'patch' else kind
        if part not in SITES:
            raise UserError(f'there is no site {part[:40]!r} to patch; there are {", ".join(SITES)}')
        layer = fields.integer('layer')
        index = fields.integer(part) if part in ('head', 'neuron') else None
        if kind != 'patch':
            change: Change = Scale(part, layer, index, fields.number('scale', 0.0))
        else:
            prompt = fields.text('prompt')
            source = encode(run, prompt)
            here, there = fields.integer('position', length - 1), fields.integer('from_position', len(source) - 1)
            change = Patch(part, layer, index, here, source, prompt, there)
            for name in ('head', 'neuron'):
                fields.integer(name, None)  # what a page's form has, and this patch has no use for
        fields.end()
        return change

    def _models(self, fields: Fields) -> dict[str, Any]:
        fields.end()
        digests = {run.tokenizer.digest for run in self.runs}
        return {
            'models': [run.card(number) for number, run in enumerate(self.runs)],
            'comparable': len(digests) == 1,
            'default_prompt': self.prompt,
            'limits': {
                'prompt_bytes': MOST_PROMPT_BYTES,
                'window': WINDOW,
                'lens_positions': LENS_POSITIONS,
                'generate': MOST_STEPS,
            },
            'version': llm.__version__,
        }

    def _sources(self, fields: Fields) -> dict[str, Any]:
        run = self.runs[fields.integer('run', 0)]
        fields.end()
        return {'stages': sources.stages(run.model, run.tokenizer)}

    def _tokenize(self, fields: Fields) -> dict[str, Any]:
        run = self.runs[fields.integer('run', 0)]
        ids = encode(run, fields.text('prompt'))
        fields.end()
        context = run.model.context_length
        return {
            'tokens': [arrays.token(run.tokenizer, i) for i in ids[:MOST_LISTED]],
            'length': len(ids),
            'context': context,
            'fits': len(ids) <= context,
        }

    def _tokens(self, fields: Fields) -> dict[str, Any]:
        run, asked = self.runs[fields.integer('run', 0)], fields.text('ids')
        fields.end()
        parts = asked.split(',')
        if len(parts) > MOST_LISTED:
            raise UserError(f'{len(parts)} ids are more than {MOST_LISTED}; ask for fewer at once')
        ids = [Fields({'ids': part}).integer('ids') for part in parts]
        for i in ids:
            require('token', i, run.model.vocab_size)
        return {'tokens': [arrays.token(run.tokenizer, i) for i in ids]}

    def _vocabulary(self, fields: Fields) -> dict[str, Any]:
        run, search = self.runs[fields.integer('run', 0)], fields.text('search')
        count = _count(fields.integer('count', 20), 200)
        fields.end()
        shown = search.replace(' ', '·')
        found = [(not piece.startswith(shown), len(piece), i) for i, piece in enumerate(run.pieces) if shown in piece]
        return {'tokens': [arrays.token(run.tokenizer, i) for _, _, i in sorted(found)[:count]]}

    def _neighbours(self, fields: Fields) -> dict[str, Any]:
        number, token = fields.integer('run', 0), fields.integer('token')
        run = self.runs[number]
        step, count = self._step(run, fields.integer('step', None)), _count(fields.integer('count', 8), 100)
        fields.end()
        return blocks.neighbours(run, self.runs.unit_vectors(number, step), token, count)

    def _trace(self, fields: Fields) -> dict[str, Any]:
        spec = self.spec(fields)
        fields.end()
        self.traces.remember(spec)
        return blocks.summary(self.traces, spec)

    def _known(self, trace: str) -> Spec:
        try:
            return self.traces.spec(trace)
        except KeyError:
            raise NotFound(f'there is no trace {trace[:40]!r} here any more; read the prompt again') from None

    def _again(self, fields: Fields, trace: str) -> dict[str, Any]:
        fields.end()
        return blocks.summary(self.traces, self._known(trace))

    def _view(self, view: Callable[..., Any], names: tuple[str, ...], fields: Fields, trace: str) -> dict[str, Any]:
        """A view whose arguments are numbers, those named, in order."""
        spec = self._known(trace)
        length = len(spec.tokens)
        defaults = {'position': length - 1, 'query': 0, 'key': 0, 'against': None, 'from': 0, 'to': None}
        if view == self._lens:
            defaults |= {'count': 5, 'token': None}
        else:
            defaults |= {'count': 12, 'size': WINDOW}
        numbers = {name: fields.integer(name, *([defaults[name]] if name in defaults else [])) for name in names}
        fields.end()
        if 'position' in numbers:
            require('position', numbers['position'], length)
        if 'count' in numbers:
            _count(numbers['count'], 1000)
        return view(self.traces, spec, *numbers.values())

    def _lens(
        self, traces: Traces, spec: Spec, start: int, stop: int | None, count: int, token: int | None
    ) -> dict[str, Any]:
        length = len(spec.tokens)
        require('from', start, length)
        stop = min(length, start + LENS_POSITIONS) if stop is None else min(stop, length)
        if not start < stop <= start + LENS_POSITIONS:
            raise UserError(f'to must be more than from, by at most {LENS_POSITIONS}')
        return readings.logit_lens(traces, spec, start, stop, min(count, 20), token)

    def _cut(self, fields: Fields, trace: str) -> dict[str, Any]:
        spec = self._known(trace)
        position = fields.integer('position', len(spec.tokens) - 1)
        params = self._sampling(fields)
        fields.end()
        require('position', position, len(spec.tokens))
        return readings.cut(self.traces, spec, position, params)

    def _sampling(self, fields: Fields) -> Any:
        return sampling_params({**SAMPLING, **_sampling_fields(fields)})

    def _start(self, fields: Fields) -> dict[str, Any]:
        spec = self.spec(fields)
        given = Fields(fields.take('sampling', {}), 'sampling')
        fields.end()
        settings = self._sampling(given)
        given.end()
        return self.sessions.start(spec.run, spec.step, spec.tokens, spec.changes, settings)

    def _next(self, fields: Fields, session: str) -> dict[str, Any]:
        count, given = fields.integer('count', 1), Fields(fields.take('sampling', {}), 'sampling')
        fields.end()
        change = _sampling_fields(given)
        given.end()
        try:
            return self.sessions.next(session, count, change)
        except KeyError:
            raise NotFound('what this text was written with is not kept any more; start again') from None

    def _moment(self, fields: Fields) -> dict[str, Any]:
        spec, token = self.spec(fields), fields.integer('token', None)
        fields.end()
        self.traces.remember(spec)
        return comparisons.moment(self.traces, spec, token)

    def _compare(self, fields: Fields) -> dict[str, Any]:
        left, right = (self._known(fields.text(name)) for name in ('left', 'right'))
        position = fields.integer('position', None)
        fields.end()
        position = len(left.tokens) - 1 if position is None else position
        require('position', position, min(len(left.tokens), len(right.tokens)))
        return comparisons.compare(self.traces, left, right, position)


def encode(run: Run, prompt: str) -> tuple[int, ...]:
    """The ids of a prompt.

    Raises:
        UserError: if it is too large to be one, or not text.
    """
    size = len(prompt.encode('utf-8', 'surrogatepass'))
    if size > MOST_PROMPT_BYTES:
        raise UserError(f'the prompt has {size} bytes; the most is {MOST_PROMPT_BYTES}')
    check_text(prompt)
    return tuple(run.tokenizer.encode_text(prompt))


def check_text(prompt: str) -> None:
    """Raises UserError for what JSON and a page cannot hold: bytes of a command line that are not UTF-8."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError('the prompt is not UTF-8 text; a page can show text alone') from None


def _count(count: int, most: int) -> int:
    if not 1 <= count <= most:
        raise UserError(f'count is {count}; give one from 1 to {most}')
    return count


def _sampling_fields(fields: Fields) -> dict[str, Any]:
    """Those of the sampler's settings that were given."""
    whole = {name for name, value in SAMPLING.items() if isinstance(value, int)}
    found = {name: (fields.integer if name in whole else fields.number)(name, None) for name in SAMPLING}
    return {name: value for name, value in found.items() if value is not None}
