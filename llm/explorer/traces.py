"""What a prompt does in a model: computed once, kept while there is room, computed again when it is asked for later."""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llm.errors import UserError
from llm.explorer import edits as edits_lib
from llm.explorer import layers, views
from llm.explorer.edits import Change, Patch
from llm.explorer.kept import Kept
from llm.explorer.runs import Run, Runs

TRACE_BYTES = 2**30  # of traces, and as much again of what is looked at in them
WHOLE_PATTERNS = 2**22  # weights of a layer up to which all its heads are computed when one is looked at
MOST_REMEMBERED = 4096  # traces whose ids are still understood


@dataclass(frozen=True)
class Spec:
    """All that a trace follows from."""

    run: int
    step: int
    tokens: tuple[int, ...]
    changes: tuple[Change, ...] = ()

    @property
    def id(self) -> str:
        """The same for the same trace, in any process."""
        plain = [self.run, self.step, self.tokens, edits_lib.plain(self.changes)]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Trace:
    """The pass of a prompt through a model, without its padding.

    Attributes:
        entry: token vectors, added positions or None, and the stream that enters the first block.
        streams: (layers + 1, length, width): what enters the first block and what leaves each.
        norms: by part, (layers, length).
        losses: (length) nats of each token given those before it; NaN for the first.
        milliseconds: that the pass took.
        compiled: whether it includes compiling, so that its time says nothing of the model.
    """

    entry: layers.Entry
    streams: np.ndarray
    norms: dict[str, np.ndarray]
    losses: np.ndarray
    milliseconds: float
    compiled: bool

    @property
    def bytes(self) -> int:
        return self.streams.nbytes + sum(norms.nbytes for norms in self.norms.values())


class Traces:
    """The traces of a page. Not for several threads at once."""

    def __init__(self, runs: Runs):
        self.runs = runs
        self._specs: dict[str, Spec] = {}
        self._traces, self._looks = Kept(TRACE_BYTES), Kept(TRACE_BYTES)
        self._compiled: set[Any] = set()

    def remember(self, spec: Spec) -> str:
        """Checks what a trace is asked for, and returns its id, by which it is found as long as the page lives.

        Raises:
            UserError: for a prompt that does not fit, or an edit of what there is not.
        """
        run = self.runs[spec.run]
        check_prompt(run, spec.tokens)
        edits_lib.check(spec.changes, run.model, len(spec.tokens))
        for change in spec.changes:
            if isinstance(change, Patch):
                check_prompt(run, change.source)
        self._specs.pop(spec.id, None)
        self._specs[spec.id] = spec
        while len(self._specs) > MOST_REMEMBERED:
            del self._specs[next(iter(self._specs))]
        return spec.id

    def spec(self, trace: str) -> Spec:
        """What a trace follows from.

        Raises:
            KeyError: if there is no such trace.
        """
        return self._specs[trace]

    def params(self, spec: Spec) -> Any:
        return self.runs.params(spec.run, spec.step)[1]

    def get(self, spec: Spec) -> Trace:
        """The trace, computed if it is not there."""
        if spec in self._traces:
            return self._traces[spec]
        trace = self._compute(spec)
        return self._traces.put(spec, trace, trace.bytes)

    def _compute(self, spec: Spec) -> Trace:
        run, params = self.runs[spec.run], self.params(spec)
        config, prompt, length = run.model, layers.pad(spec.tokens, run.model), len(spec.tokens)
        base = self.get(Spec(spec.run, spec.step, spec.tokens)) if spec.changes else None
        first = edits_lib.first_layer(spec.changes) if spec.changes else 0
        tail = np.int32(max(0, length - views.TAIL))
        edits = [self._edits(spec, layer) for layer in range(config.num_layers)]
        program = (config, prompt.tokens.shape, base is None)
        begin = time.perf_counter()
        entry = jax.tree.map(np.asarray, layers.enter(config, params, prompt)) if base is None else base.entry
        streams = np.empty((config.num_layers + 1, length, config.width), np.float32)
        streams[: first + 1] = entry.stream[None, :length] if base is None else base.streams[: first + 1]
        x = entry.stream if base is None else layers.padded_rows(base.streams[first], prompt.tokens.shape[0])
        kept: dict[str, list[np.ndarray]] = {}
        for layer in range(first, config.num_layers):
            seen = layers.look(config, views.passing, params, prompt, layer, x, edits[layer], tail)
            x = seen.pop('after')
            streams[layer + 1] = np.asarray(x)[:length]
            for name, value in seen.items():
                kept.setdefault(name, []).append(np.asarray(value))
        milliseconds = 1000 * (time.perf_counter() - begin)
        compiled = program not in self._compiled
        self._compiled.add(program)
        norms = {'residual': np.linalg.norm(streams, axis=-1)}
        for part in ('between', 'attention', 'feed_forward'):
            norms[part] = np.zeros((config.num_layers, length), np.float32)
            if base is not None:
                norms[part][:first] = base.norms[part][:first]
            for layer, norm in enumerate(kept.get(f'{part}_norm', ()), first):
                norms[part][layer] = norm[:length]
        losses = layers.token_losses(config, params, streams[-1], spec.tokens)
        trace = Trace(entry, streams, norms, losses, milliseconds, compiled)
        if base is None:  # else some layers are missing; what is asked for is computed again then
            self._keep_window(spec, int(tail), {name: kept[name] for name in kept if not name.endswith('_norm')})
        return trace

    def _edits(self, spec, layer):
        run = self.runs[spec.run]
        padded = layers.pad(spec.tokens, run.model).tokens.shape[0]
        return edits_lib.of_layer(spec.changes, run.model, layer, padded, lambda patch: self._source(spec, patch))

    def _source(self, spec: Spec, patch: Patch) -> np.ndarray:
        """What a patch puts in: the part as it is on the other prompt."""
        other = Spec(spec.run, spec.step, patch.source)
        if patch.part == 'residual':
            return self.get(other).streams[patch.layer + 1, patch.source_position]
        site, axis = edits_lib.SITES[patch.part]
        values = np.asarray(self.look(other, views.WHOLE[site], patch.layer))
        if axis is None:
            return values[patch.source_position]
        if axis == 0:
            return values[patch.index, patch.source_position]
        return values[patch.source_position, patch.index]

    def look(self, spec: Spec, view: layers.View, layer: int, arguments: Any = None) -> Any:
        """What a view makes of a block, computed from the stream that enters it.

        Raises:
            UserError: if there is no such layer.
        """
        run = self.runs[spec.run]
        edits_lib.require('layer', layer, run.model.num_layers)
        number = None if arguments is None else int(arguments)
        key = (spec, view, layer, number)
        if key in self._looks:
            return self._looks[key]
        trace, prompt = self.get(spec), layers.pad(spec.tokens, run.model)
        stream = layers.padded_rows(trace.streams[layer], prompt.tokens.shape[0])
        at = None if number is None else np.int32(number)
        seen = layers.look(run.model, view, self.params(spec), prompt, layer, stream, self._edits(spec, layer), at)
        seen = jax.tree.map(np.asarray, seen)
        return self._looks.put(key, seen, sum(leaf.nbytes for leaf in jax.tree.leaves(seen)))

    def attention(
        self, spec: Spec, layer: int, head: int | None = None, query: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores before the mask and weights after the softmax: of all heads, of one, or of one query in all heads.

        Of a short prompt all are computed at once and kept.
        """
        run, length = self.runs[spec.run], len(spec.tokens)
        if head is not None:
            edits_lib.require('head', head, run.model.num_heads)
        if run.model.num_heads * length**2 <= WHOLE_PATTERNS or (head is None and query is None):
            which = (slice(None) if head is None else head, slice(None) if query is None else query)
            scores, weights = (x[which] for x in self.look(spec, views.attention, layer))
        elif head is not None:
            scores, weights = self.look(spec, views.head, layer, head)
        else:
            scores, weights = self.look(spec, views.row, layer, query)
        real = (..., slice(length)) if query is not None else (..., slice(length), slice(length))
        return scores[real], weights[real]

    def part(self, spec: Spec, layer: int, position: int) -> dict[str, np.ndarray]:
        """What one block adds at one position, by site. The others are not computed for it."""
        self.get(spec)
        at = _window(spec, position)
        if (spec, at) in self._looks:
            found = {name: value[layer] for name, value in self._looks[spec, at].items()}
        else:
            found = self.look(spec, views.window, layer, at)
        return {name: value[..., position - at, :] for name, value in found.items()}

    def parts(self, spec: Spec, position: int) -> dict[str, np.ndarray]:
        """What every block adds at one position, by site: (layers, ...) each."""
        trace, at = self.get(spec), _window(spec, position)
        if (spec, at) not in self._looks:
            found = [self.look(spec, views.window, layer, at) for layer in range(len(trace.streams) - 1)]
            self._keep_window(spec, at, {name: [layer[name] for layer in found] for name in found[0]})
        kept = self._looks[spec, at]
        return {name: value[..., position - at, :] for name, value in kept.items()}

    def _keep_window(self, spec, at, parts):
        stacked = {name: np.stack(values) for name, values in parts.items()}
        self._looks.put((spec, at), stacked, sum(value.nbytes for value in stacked.values()))


def _window(spec: Spec, position: int) -> int:
    """Where the window begins that a position's parts are computed with: the last positions share one."""
    last = max(0, len(spec.tokens) - views.TAIL)
    return last if position >= last else position // views.TAIL * views.TAIL


def check_prompt(run: Run, tokens: tuple[int, ...]) -> None:
    """Raises UserError, with the numbers, if a prompt does not fit a model."""
    context, vocabulary = run.model.context_length, run.model.vocab_size
    if not tokens:
        raise UserError('the prompt has no tokens; type something')
    if len(tokens) > context:
        raise UserError(f"the prompt has {len(tokens)} tokens and the model's context is {context}; shorten the prompt")
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise UserError(f'the prompt has token id {wrong}; the model knows 0 to {vocabulary - 1}')
