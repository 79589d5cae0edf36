"""What the head makes of the stream: logits, what a sampler leaves of them, the logit lens, and who made a logit."""

import functools
from typing import Any

import jax
import numpy as np

from llm.analysis import lens, memories
from llm.errors import UserError
from llm.explorer import arrays, layers, views
from llm.explorer.edits import Change, Patch, Scale, require
from llm.explorer.traces import Spec, Traces
from llm.inference import sampling
from llm.inference.sampling import SamplingParams

SHOWN_TEXTS = 256  # most probable tokens whose pieces come with the logits
CUT_TOP = 20
FAVOURITES = 5  # tokens that a neuron promotes, and as many that it suppresses


def logits_at(traces: Traces, spec: Spec, position: int) -> np.ndarray:
    """(vocabulary) logits of what follows a position."""
    config, stream = traces.runs[spec.run].model, traces.get(spec).streams[-1, position]
    return np.asarray(layers.logits(config, traces.params(spec), stream[None]))[0]


def log_probs(logits: np.ndarray) -> np.ndarray:
    """Normalised, in float64."""
    logits = logits.astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def logits(traces: Traces, spec: Spec, position: int) -> dict[str, Any]:
    tokenizer, found = traces.runs[spec.run].tokenizer, logits_at(traces, spec, position)
    following = spec.tokens[position + 1] if position + 1 < len(spec.tokens) else None
    return {
        'logits': arrays.packed(found),
        'seen': sorted(set(spec.tokens[: position + 1])),
        'next': None if following is None else arrays.token(tokenizer, following),
        'texts': arrays.texts(tokenizer, np.argsort(-found, kind='stable')[:SHOWN_TEXTS]),
    }


def cut(traces: Traces, spec: Spec, position: int, params: SamplingParams) -> dict[str, Any]:
    """What the sampler draws from, by the sampler itself."""
    found = logits_at(traces, spec, position)
    seen = np.zeros((1, len(found)), bool)
    seen[0, list(spec.tokens[: position + 1])] = True
    drawn = np.asarray(sampling.next_token_distribution(found[None], seen, sampling.stack([params])))[0]
    return {
        'kept': int(np.sum(drawn > 0)),
        'top': table(traces.runs[spec.run].tokenizer, drawn, CUT_TOP),
    }


def table(tokenizer: Any, probabilities: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The most probable tokens, best first, without those of probability 0."""
    best = np.argsort(-probabilities, kind='stable')[:count]
    return [
        {'token': arrays.token(tokenizer, i), 'probability': float(probabilities[i])}
        for i in best
        if probabilities[i] > 0
    ]


def logit_lens(traces: Traces, spec: Spec, start: int, stop: int, count: int, token: int | None) -> dict[str, Any]:
    """The logit lens of positions [start, stop)."""
    run, params = traces.runs[spec.run], traces.params(spec)
    streams, positions = traces.get(spec).streams, stop - start
    if token is not None:
        require('token', token, run.model.vocab_size)
    cut = streams[:, start:stop]
    cut = np.concatenate([cut, np.zeros((len(cut), layers.AT_ONCE - positions, cut.shape[2]), cut.dtype)], axis=1)
    target = token
    if target is None:  # what the whole model says, at each position
        target = np.argmax(np.asarray(layers.logits(run.model, params, cut[-1])), axis=-1)[None]
    activations = {'residual_before': cut[:1, None], 'residual_after': cut[1:, None]}
    found = lens.logit_lens(params, run.model, activations, target, top=count)
    found = jax.tree.map(lambda value: np.asarray(value)[:, 0, :positions], found)
    return {
        'from': start,
        'ids': arrays.packed(found.tokens),
        'probabilities': arrays.packed(found.probabilities),
        'rank': arrays.packed(found.target_rank),
        'probability': arrays.packed(found.target_probability),
        'entropy': arrays.packed(found.entropy),
        'texts': arrays.texts(run.tokenizer, found.tokens),
    }


def _activations(traces: Traces, spec: Spec, position: int) -> dict[str, np.ndarray]:
    """What `lens.direct_logit_attribution` asks for, of one position."""
    run, trace = traces.runs[spec.run], traces.get(spec)
    found = {name: value[:, None, ..., None, :] for name, value in traces.parts(spec, position).items()}
    entered = {'token_embedding': trace.entry.token, 'position_embedding': trace.entry.position}
    found |= {name: np.asarray(x)[None, position, None] for name, x in entered.items() if x is not None}
    normed = layers.final_norm(run.model, traces.params(spec), trace.streams[-1, position][None, None])
    return found | {'hidden': normed}


def attribution(traces: Traces, spec: Spec, position: int, token: int, against: int | None) -> dict[str, Any]:
    """A token's logit (less another's) as a sum over the parts of the model."""
    run = traces.runs[spec.run]
    _check_tokens(run, token, against)
    activations = _activations(traces, spec, position)
    found = lens.direct_logit_attribution(traces.params(spec), run.model, activations, token, against)
    one = lambda value: float(np.asarray(value)[0, 0])
    stream_kept, attention_kept = _left_by_edits(spec, position, run.model.num_layers)
    embedding = one(found.token_embedding + found.position_embedding) * stream_kept[0]
    heads = np.asarray(found.heads)[:, 0, :, 0] * (stream_kept[1:] * attention_kept)[:, None]
    attention_bias = np.asarray(found.attention_bias)[:, 0, 0] * stream_kept[1:] * attention_kept
    feed_forward = np.asarray(found.feed_forward)[:, 0, 0] * stream_kept[1:]
    bias = one(found.norm_bias + found.head_bias)
    total = embedding + float(heads.sum() + attention_bias.sum() + feed_forward.sum()) + bias
    # What a patch puts into the stream was written by no part of this model on this prompt.
    patched = one(found.logit) - total if any(_into_stream(change, position) for change in spec.changes) else 0.0
    stream = traces.get(spec).streams[-1, position].astype(np.float64)
    centred = stream - stream.mean() if run.model.norm == 'layernorm' else stream
    return {
        'logit': one(found.logit),
        'sum': total + patched,
        'capped': run.model.logit_softcap is not None,
        'embedding': embedding,
        'heads': arrays.packed(heads),
        'attention_bias': arrays.packed(attention_bias),
        'feed_forward': arrays.packed(feed_forward),
        'bias': bias,
        'patched': patched,
        'final_norm_scale': float((np.mean(centred**2) + run.model.norm_epsilon) ** -0.5),
        'token': arrays.token(run.tokenizer, token),
        'against': None if against is None else arrays.token(run.tokenizer, against),
    }


def _into_stream(change: Change, position: int) -> bool:
    """Whether a change puts a vector into the stream of a position that none of its parts wrote."""
    return isinstance(change, Patch) and change.part in ('attention', 'residual') and change.position == position


def _left_by_edits(spec: Spec, position: int, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """What edits behind the parts leave of them at a position: a patched stream holds nothing of what was written
    before it, and a scaled attention that much of its heads. (Heads and neurons are shown as edited themselves.)

    Returns:
        Factors of the embedding and of every layer, (layers + 1), and of the attention of every layer.
    """
    stream, attention = np.ones(layers + 1), np.ones(layers)
    for change in spec.changes:
        if isinstance(change, Scale) and change.part == 'attention':
            attention[change.layer] *= change.factor
        if _into_stream(change, position):
            if change.part == 'attention':
                attention[change.layer] = 0
            else:
                stream[: change.layer + 2] = 0
    return stream, attention


def _left_of_neurons(spec: Spec, layer: int, position: int, layers: int) -> float:
    """The same of the neurons of one layer."""
    factor = float(_left_by_edits(spec, position, layers)[0][layer + 1])
    for change in spec.changes:
        if change.part == 'feed_forward' and change.layer == layer:
            if isinstance(change, Scale):
                factor *= change.factor
            elif change.position == position:
                factor = 0.0
    return factor


def neuron_attribution(
    traces: Traces, spec: Spec, layer: int, position: int, token: int, against: int | None, count: int
) -> dict[str, Any]:
    """The term of one layer's feed-forward network as a sum over its neurons."""
    run = traces.runs[spec.run]
    _check_tokens(run, token, against)
    _check_neurons(run)
    values = traces.look(spec, views.WHOLE['neurons'], layer)[position]
    activations = _activations(traces, spec, position) | {'neurons': values[None, None]}
    found = lens.neuron_attribution(traces.params(spec), run.model, activations, layer, token, against)
    terms = np.asarray(found.neurons)[0, 0] * _left_of_neurons(spec, layer, position, run.model.num_layers)
    best = np.argsort(-np.abs(terms), kind='stable')[:count]
    return {
        'top': [{'neuron': int(i), 'contribution': float(terms[i]), 'activation': float(values[i])} for i in best],
        'sum': float(terms.sum()),
    }


def _check_tokens(run, *tokens):
    for token in tokens:
        if token is not None:
            require('token', token, run.model.vocab_size)


def _check_neurons(run):
    if not run.model.hidden_width:
        raise UserError('the model has no feed-forward networks (model.feed_forward_width 0)')


@functools.partial(jax.jit, static_argnames=('config', 'count'))
def _favourites(config, params, rows, count):
    """Tokens that some rows of the stream promote most, and suppress most (Geva et al. 2021, 2022)."""
    found = memories.read_out(params, config, rows)
    most, least = jax.lax.top_k(found, count), jax.lax.top_k(-found, count)
    return most[0], most[1], -least[0], least[1]


def favourites(
    traces: Traces, spec: Spec, layer: int, neurons: np.ndarray, count: int
) -> list[dict[str, list[dict[str, Any]]]]:
    """Of each neuron the tokens that its value row promotes and suppresses: the logits of a unit of activation, with
    the weights of the norms that it passes and without what they divide by (see `llm.analysis.memories`)."""
    run = traces.runs[spec.run]
    count = min(count, run.model.vocab_size)
    params = traces.params(spec)
    found = _favourites(run.model, params, memories.value_rows(params, run.model, layer, neurons), count)
    rows = []
    for up, up_ids, down, down_ids in zip(*map(np.asarray, found)):
        rows.append(
            {
                name: [{'token': arrays.token(run.tokenizer, i), 'logit': float(x)} for i, x in zip(ids, values)]
                for name, ids, values in (('promotes', up_ids, up), ('suppresses', down_ids, down))
            }
        )
    return rows


def neurons(traces: Traces, spec: Spec, layer: int, position: int, count: int) -> dict[str, Any]:
    """The neurons of a layer at a position that move the stream most."""
    _check_neurons(traces.runs[spec.run])
    values = traces.look(spec, views.WHOLE['neurons'], layer)[position]
    kernel = traces.params(spec)['blocks']['feed_forward']['down']['kernel'][layer]
    moved = np.abs(values) * np.linalg.norm(np.asarray(kernel, np.float32), axis=-1)
    best = np.argsort(-moved, kind='stable')[:count]
    counts, edges = np.histogram(values[np.isfinite(values)], bins=24)
    liked = favourites(traces, spec, layer, best, FAVOURITES)
    return {
        'active': float(np.mean(values > 0)),
        'histogram': {'edges': edges.tolist(), 'counts': counts.tolist()},
        'top': [
            {'neuron': int(i), 'activation': float(values[i]), 'contribution': float(moved[i]), **tokens}
            for i, tokens in zip(best, liked)
        ],
    }


def neuron(traces: Traces, spec: Spec, layer: int, number: int) -> dict[str, Any]:
    """One neuron all along the prompt."""
    run = traces.runs[spec.run]
    _check_neurons(run)
    require('neuron', number, run.model.hidden_width)
    values = traces.look(spec, views.WHOLE['neurons'], layer)[: len(spec.tokens), number]
    return {'activations': arrays.packed(values), **favourites(traces, spec, layer, np.array([number]), 10)[0]}
