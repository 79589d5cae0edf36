"""What the page shows of a trace and of each of its blocks, as JSON."""

from typing import Any

import jax
import numpy as np

from llm.analysis import embeddings
from llm.errors import UserError
from llm.explorer import arrays, views
from llm.explorer import edits as edits_lib
from llm.explorer.edits import require
from llm.explorer.runs import Run
from llm.explorer.traces import Spec, Traces
from llm.model.kv_cache import stored_dtype
from llm.model.positions import alibi_slopes
from llm.model.rope import model_angles

_angles = jax.jit(model_angles, static_argnums=1)

LARGEST_WINDOW = 256  # queries and keys of a pattern that are sent at once
LARGEST_MAP = 512


def summary(traces: Traces, spec: Spec) -> dict[str, Any]:
    """What the page is told first of a trace."""
    run, trace = traces.runs[spec.run], traces.get(spec)
    return {
        'trace': spec.id,
        'run': spec.run,
        'step': spec.step,
        'tokens': [arrays.token(run.tokenizer, i) for i in spec.tokens],
        'length': len(spec.tokens),
        'prompt': run.tokenizer.decode(spec.tokens),
        'milliseconds': {'compute': trace.milliseconds, 'compiled': trace.compiled},
        'edits': edits_lib.plain(spec.changes),
        'norms': {part: arrays.packed(norms) for part, norms in trace.norms.items()},
        'loss': arrays.packed(trace.losses),
        'bits_per_byte': bits_per_byte(run, spec, trace.losses),
        'cache_bytes_per_token': cache_bytes_per_token(run),
    }


def bits_per_byte(run: Run, spec: Spec, losses: np.ndarray) -> float | None:
    """Bits of the tokens after the first over the bytes of their text; None if they have none."""
    size = sum(len(run.tokenizer.token_bytes(i)) for i in spec.tokens[1:])
    return float(np.sum(losses[1:], dtype=np.float64) / np.log(2) / size) if size else None


def cache_bytes_per_token(run: Run) -> int:
    """Of a KV cache as `generate` has it: keys and values of every layer."""
    model = run.trained
    return 2 * model.num_layers * model.kv_heads * model.key_size * stored_dtype(model.compute_dtype).itemsize


def embedding(traces: Traces, spec: Spec, position: int) -> dict[str, Any]:
    """From the id to what enters the first block."""
    run, entry = traces.runs[spec.run], traces.get(spec).entry
    model, vector = run.model, np.asarray(entry.token[position])
    place: dict[str, Any] = {'kind': model.position, 'vector': None, 'angles': None, 'slopes': None}
    if entry.position is not None:
        place['vector'] = arrays.packed(entry.position[position])
    if model.position == 'rope':
        (cosines, sines), _ = _angles(np.array([[position]], np.int32), model)
        place['angles'] = arrays.packed(np.arctan2(np.asarray(sines), np.asarray(cosines)).ravel())
    if model.position == 'alibi':
        place['slopes'] = arrays.packed(alibi_slopes(model.num_heads))
    return {
        'vector': arrays.packed(vector),
        'norm': float(np.linalg.norm(vector)),
        'enters': arrays.packed(traces.get(spec).streams[0, position]),
        'position': place,
    }


def block(traces: Traces, spec: Spec, layer: int, position: int) -> dict[str, Any]:
    """One position on its way through a block."""
    run = traces.runs[spec.run]
    require('layer', layer, run.model.num_layers)
    seen = traces.part(spec, layer, position)
    kernel = traces.params(spec)['blocks']['attention']['output']['kernel'][layer]
    added = np.einsum('hd,hdw->hw', seen['head_outputs'], np.asarray(kernel).reshape(*seen['head_outputs'].shape, -1))
    vectors = {
        'before': seen['residual_before'],
        'attention': seen['attention_output'],
        'between': seen['residual_between'],
        'feed_forward': seen.get('feed_forward_output', np.zeros_like(seen['residual_before'])),
        'after': seen['residual_after'],
    }
    # What the two norms of a block normalise: their inputs, or with norms on the stream the sums.
    post = run.model.norm_placement == 'post'
    normalised = {
        'attention': vectors['before'] + vectors['attention'] if post else vectors['before'],
        'feed_forward': vectors['between'] + vectors['feed_forward'] if post else vectors['between'],
    }
    return {
        **{name: arrays.packed(vector) for name, vector in vectors.items()},
        'norms': {name: float(np.linalg.norm(vector)) for name, vector in vectors.items()},
        'norm_scale': {name: norm_scale(run, vector) for name, vector in normalised.items()},
        'heads': arrays.packed(np.linalg.norm(added, axis=-1)),
    }


def norm_scale(run: Run, vector: np.ndarray) -> float:
    """What a norm multiplies a vector by, before its learned scale."""
    vector = vector.astype(np.float64)
    if run.model.norm == 'layernorm':
        vector = vector - vector.mean()
    return float((np.mean(vector**2) + run.model.norm_epsilon) ** -0.5)


def heads(traces: Traces, spec: Spec, layer: int) -> dict[str, Any]:
    """Every head of a layer at a glance."""
    seen = dict(traces.look(spec, views.heads, layer))
    cells = min(len(spec.tokens), -(-len(spec.tokens) // _cell(len(spec.tokens), views.THUMBNAIL)))
    thumbnails = seen.pop('thumbnails')[:, :cells, :cells]
    return {name: arrays.packed(value) for name, value in {'thumbnails': thumbnails, **seen}.items()}


def _cell(length: int, cells: int) -> int:
    """Tokens in a cell, for at most so many cells."""
    return max(-(-length // cells), 1)


def pattern(traces: Traces, spec: Spec, layer: int, head: int, query: int, key: int, size: int) -> dict[str, Any]:
    """A window of one head's scores and weights."""
    if not 1 <= size <= LARGEST_WINDOW:
        raise UserError(f'size is {size}; give one from 1 to {LARGEST_WINDOW}')
    for name, start in (('query', query), ('key', key)):
        require(name, start, len(spec.tokens))
    scores, weights = traces.attention(spec, layer, head)
    window = slice(query, query + size), slice(key, key + size)
    run = traces.runs[spec.run]
    visible = None
    if (own := run.model.layer_windows[layer]) is not None:
        rows, columns = (np.arange(len(spec.tokens))[part] for part in window)
        distance = rows[:, None] - columns[None, :]
        visible = arrays.packed((distance >= 0) & (distance < own))
    return {
        'query': query,
        'key': key,
        'pattern': arrays.packed(weights[window]),
        'scores': arrays.packed(scores[window]),
        'visible': visible,
    }


def overview(traces: Traces, spec: Spec, layer: int, head: int, size: int) -> dict[str, Any]:
    """One head's whole pattern, the largest weight of each cell."""
    if not 1 <= size <= LARGEST_MAP:
        raise UserError(f'size is {size}; give one from 1 to {LARGEST_MAP}')
    _, weights = traces.attention(spec, layer, head)
    cell = _cell(len(weights), size)
    starts = np.arange(0, len(weights), cell)
    cells = np.maximum.reduceat(np.maximum.reduceat(weights, starts, axis=0), starts, axis=1)
    return {'cell': cell, 'pattern': arrays.packed(cells)}


def attends(traces: Traces, spec: Spec, layer: int, position: int) -> dict[str, Any]:
    """Whom one token attends to, in all heads."""
    scores, weights = traces.attention(spec, layer, query=position)
    return {'pattern': arrays.packed(weights), 'scores': arrays.packed(scores)}


def neighbours(run: Run, vectors: np.ndarray, token: int, count: int) -> dict[str, Any]:
    """The tokens that a text can come to whose `vectors` (see `Runs.unit_vectors`) point most nearly the same way."""
    require('token', token, run.model.vocab_size)
    return {
        'token': arrays.token(run.tokenizer, token),
        'neighbours': [
            {'token': arrays.token(run.tokenizer, near.token), 'cosine': near.cosine}
            for near in embeddings.neighbours(vectors, token, count, run.written)
        ],
    }
