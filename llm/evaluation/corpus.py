"""Bits per byte on any corpus, and whether the model's next-token probabilities are calibrated.

The definitions are those of held-out text (docs/evaluation.md): every token counts once, EOS included and BOS not;
windows follow each other without overlap, and each starts without context, unless a stride is asked for. Of a corpus
that the run was trained on, only the held-out documents are measured; documents that are equal are measured once.

A next token counts as predicted with the confidence of the most probable one, and as right if it is that one.
"""

import functools
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tqdm

from llm import cache
from llm.analysis import statistics
from llm.analysis.calibration import Reliability
from llm.config import DataConfig, ParallelConfig
from llm.data import split
from llm.data.batches import held_out_windows
from llm.data.corpora import Corpus, Document
from llm.data.token_store import StoreWriter, TokenStore, tokenize
from llm.errors import MachineError, UserError
from llm.evaluation.results import INTERVAL, Metric, Result
from llm.evaluation.subject import Subject
from llm.inference.decode import bucket
from llm.inference.scoring import TOKENS_AT_ONCE, TargetScores, target_scores
from llm.model.transformer import Transformer
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import Tokenizer

_FORMAT = 1  # part of every key: raised when what is cached changes


@dataclass(frozen=True)
class Text:
    """What is measured.

    Attributes:
        corpus: where it comes from.
        held_out: only the documents that are held out.
        limit: only so many documents, the first ones; None is all.
    """

    corpus: Corpus
    held_out: bool
    limit: int | None = None


def measure(
    task: str,
    text: Text,
    subject: Subject,
    *,
    stride: int | None,
    bins: int,
    progress: Callable[[int], Any],
) -> Result:
    """Measures a model on documents.

    Args:
        task: its name.
        text: what to measure it on.
        subject: the model.
        stride: tokens between the starts of windows; None is a whole window.
        bins: of the reliability diagram.
        progress: told how many tokens are done.

    Raises:
        UserError: if there is no document, or the stride is out of range.
        MachineError: if the model's numbers are not finite.
    """
    data = subject.config.data
    store, noted = open_store(text, subject.tokenizer, data)
    if stride is not None and not 1 <= stride <= data.sequence_length:
        raise UserError(f'--stride is {stride}; it must be between 1 and the window of {data.sequence_length}')
    counts = np.diff(store.offsets) - 1  # a document's tokens that are predicted: all but its BOS
    document = np.repeat(np.arange(store.num_documents, dtype=np.int32), counts)
    nats, right = np.zeros((2, store.num_documents), np.float64)
    reliability, done = Reliability(bins), 0
    for scores in _score_windows(store, subject, stride):
        here = document[done : done + len(scores.logprob)]
        nats -= np.bincount(here, scores.logprob.astype(np.float64), store.num_documents)
        right += np.bincount(here, scores.hit, store.num_documents)
        reliability.add(np.exp(scores.top_logprob.astype(np.float64)), scores.hit)
        done += len(here)
        progress(len(here))
    if not np.isfinite(nats).all():
        raise MachineError('the model gives log-likelihoods that are not finite; its weights are damaged')
    size = store.document_bytes
    samples = tuple(
        {
            'document': identity,
            'bytes': int(size[i]),
            'tokens': int(counts[i]),
            'nats': float(nats[i]),
            'bits_per_byte': float(nats[i] / math.log(2) / size[i]) if size[i] else None,
            'accuracy': float(right[i] / counts[i]),
        }
        for i, identity in enumerate(store.identities)
    )
    loss = float(nats.sum() / counts.sum())
    per_token = statistics.ratio_error(nats, counts)
    metrics = (
        _ratio('bits_per_byte', nats / math.log(2), size),
        _ratio('loss', nats, counts),
        Metric('perplexity', math.exp(min(loss, 700)), len(counts), per_token and math.exp(min(loss, 700)) * per_token),
        _ratio('next_token_accuracy', right, counts),
        Metric('calibration_error', reliability.error, len(counts)),
    )
    facts = {
        'corpus': text.corpus.source,
        'documents': store.num_documents,
        'of them measured': 'the held-out ones' if text.held_out else 'all',
        'at most': text.limit and f'the first {text.limit:,}',
        'equal documents left out': noted['equal'],
        'documents that the tokenizer changes, so that they cost too few bits': noted['changed'] or None,
        'bytes': store.num_bytes,
        'tokens': store.num_tokens,
        'window': f'{data.sequence_length} tokens',
        'stride': f'{stride or data.sequence_length} tokens',
        'mean confidence in the next token': reliability.confidence,
        'bins of the calibration error': f'{bins} of equal width',
    }
    return Result(task, 'bits_per_byte', metrics, facts, tuple(reliability.rows()), (), samples)


def open_store(text: Text, tokenizer: Tokenizer, data: DataConfig) -> tuple[TokenStore, dict[str, int]]:
    """The documents in tokens, from the cache if they are in it, and what was noted on the way.

    That is how many were left out for being equal, `equal`, and how many the tokenizer does not give back as they were,
    `changed`: what it leaves out costs no bits.

    Raises:
        UserError: if there is no document.
    """
    parts = {
        'format': _FORMAT,
        'corpus': (text.corpus.source, text.corpus.fingerprint),
        'held_out': text.held_out,
        'limit': text.limit,
        'tokenizer': tokenizer.digest,
        'text_field': data.text_field,
        'bad_bytes': data.bad_bytes,
    }
    key = 'evaluation-' + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def build(folder: pathlib.Path) -> None:
        duplicates = split.Deduplicator()
        writer = StoreWriter(folder / 'documents', text.corpus.source, tokenizer)
        chosen = ((None, document) for document in _chosen(text, duplicates))
        changed = 0
        total = text.corpus.bytes
        with tqdm.tqdm(desc='tokenising', total=total, unit='B', unit_scale=True, file=sys.stderr, disable=None) as bar:
            for _, document, ids in tokenize(chosen, tokenizer):
                writer.add(document, ids)
                changed += not tokenizer.exact and tokenizer.decode_bytes(ids) != document.text
                bar.update(len(document.text))
        writer.finish()
        noted = {'equal': duplicates.dropped.total(), 'changed': changed}
        (folder / 'noted.json').write_text(json.dumps(noted))

    folder = cache.entry('token_stores', key, build, f'{text.corpus.source} in tokens, to evaluate on')
    store = TokenStore.open(folder / 'documents')
    if not store.num_bytes:
        side = 'document is held out' if text.held_out else 'document has any text'
        raise UserError(f'{text.corpus.source}: no {side}; give it more')
    return store, json.loads((folder / 'noted.json').read_text())


def _chosen(text: Text, duplicates: split.Deduplicator) -> Iterator[Document]:
    number = 0
    for document in duplicates.unique(text.corpus.source, text.corpus.read()):
        if text.held_out and not split.is_held_out(document.identity):
            continue
        if number == text.limit:
            return
        number += 1
        yield document


def _score_windows(store: TokenStore, subject: Subject, stride: int | None) -> Iterator[TargetScores]:
    """Scores of all tokens that count, in the order of the stream, batch by batch."""
    data = subject.config.data
    mesh = mesh_lib.make_mesh(ParallelConfig())
    most = subject.batch_size or max(1, TOKENS_AT_ONCE // data.sequence_length)
    windows = -(-len(store.tokens) // (stride or data.sequence_length))
    rows = mesh_lib.padded_rows(mesh, bucket(windows, most))
    local = slice(*mesh_lib.local_rows(mesh, rows))
    params = jax.device_put(subject.params, mesh_lib.replicated(mesh))
    for batch in held_out_windows(store, data.sequence_length, data.document_masking, rows, stride):
        counted = batch['loss_weights'] > 0
        arrays = {name: x[local] for name, x in batch.items()}
        with jax.set_mesh(mesh):
            found = _read(subject.model, mesh, params, mesh_lib.place(mesh, rows, arrays))
        yield TargetScores(*(np.asarray(x)[counted] for x in found))


@functools.partial(jax.jit, static_argnames=('model', 'mesh'))
def _read(model: Transformer, mesh: jax.sharding.Mesh, params: Any, batch: dict[str, jax.Array]) -> TargetScores:
    documents = {name: batch.get(name) for name in ('segment_ids', 'positions')}
    hidden = model.apply({'params': params}, batch['inputs'], **documents, with_logits=False).hidden
    found = target_scores(model, params, hidden, batch['targets'])
    return jax.lax.with_sharding_constraint(found, mesh_lib.replicated(mesh))


def _ratio(name: str, numerators: np.ndarray, denominators: np.ndarray) -> Metric:
    """A ratio of sums over documents, with its standard error and the interval that follows from it."""
    value = float(numerators.sum() / denominators.sum())
    error = statistics.ratio_error(numerators, denominators)
    if error is None:
        return Metric(name, value, len(numerators))
    half = statistics.normal_quantile(INTERVAL) * error
    return Metric(name, value, len(numerators), error, value - half, value + half, 'normal, over documents')
