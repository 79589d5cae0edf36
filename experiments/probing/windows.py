"""Held-out Python source, cut into rows that a model reads, with the labels of every token.

A row begins where a statement begins that is in no block and no bracket, so nothing before it has to be known for any
of the labels. It ends with the model's context.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from experiments.probing.labels import NONE, TASKS, label
from llm.errors import UserError
from llm.tokenizer import Tokenizer

SHORTEST = 16  # tokens of a row that is worth reading


class Windows(NamedTuple):
    """Rows of tokens, padded on the right.

    Attributes:
        tokens: what the model reads.
        real: where there is a token of the text (not of the padding, nor what the tokenizer puts before a text).
        labels: by task, of each token; -1 where there is none.
        document: which of the documents each row is from, from 0.
        documents: their identities.
    """

    tokens: Int[np.ndarray, 'rows length']
    real: Bool[np.ndarray, 'rows length']
    labels: dict[str, Int[np.ndarray, 'rows length']]
    document: Int[np.ndarray, 'rows']
    documents: list[str]


def held_out(config: Any, tokenizer: Tokenizer, length: int, most: int) -> Windows:
    """Rows of the documents that a run never trained on, those that are Python.

    Args:
        config: the run's.
        tokenizer: the run's.
        length: of a row, in tokens.
        most: rows at most, spread evenly.

    Raises:
        UserError: if hardly any of them is Python.
    """
    from llm.data.prepare import prepare

    stores = prepare(config, tokenizer).held_out
    documents = (
        (store.identities[i], tokenizer.decode_bytes(store.document(i)))
        for store in stores
        for i in range(store.num_documents)
    )
    found = cut(documents, tokenizer, length)
    if len(found.documents) < 6:
        raise UserError(
            f'only {len(found.documents)} of the held-out documents are Python, and probes are fitted to some and '
            'tested on others; use a run on python_stdlib, or on more source files'
        )
    chosen = np.arange(len(found.tokens))
    if len(chosen) > most:
        chosen = chosen[np.arange(most) * len(chosen) // most]
    rows = {name: getattr(found, name)[chosen] for name in ('tokens', 'real', 'document')}
    return found._replace(**rows, labels={task: x[chosen] for task, x in found.labels.items()})


def cut(documents: Iterable[tuple[str, bytes]], tokenizer: Tokenizer, length: int) -> Windows:
    """Rows of the documents that are Python; others are left out.

    Args:
        documents: identity and text.
        tokenizer: the model's.
        length: of a row, in tokens.
    """
    prefix = list(tokenizer.prefix_ids)
    rows, identities = [], []
    for identity, data in documents:
        try:
            source = label(data.decode())
        except (SyntaxError, ValueError):  # a UnicodeDecodeError is one
            continue
        before, at = len(rows), 0
        for start in source.starts:
            if start < at:
                continue
            text = source.data[start : start + 64 * length].decode('utf-8', 'ignore')  # tokens are shorter than that
            ids = tokenizer.encode(text)[: length - len(prefix)]
            read = tokenizer.decode_bytes(ids)
            if len(ids) < SHORTEST or not source.data.startswith(read, start):  # the tokenizer changes the text
                continue
            sizes = np.array([len(tokenizer.token_bytes(i)) for i in ids])
            at = start + len(read)
            ends = at - sizes.sum() + np.cumsum(sizes)  # the first may have a space that the text has not
            rows.append((ids, {task: x[ends - 1] for task, x in source.labels.items()}, len(identities)))
        if len(rows) > before:
            identities.append(identity)
    shape = (len(rows), length)
    tokens, real = np.zeros(shape, np.int32), np.zeros(shape, bool)
    labels = {task: np.full(shape, NONE) for task in TASKS}
    for i, (ids, marks, _) in enumerate(rows):
        places = slice(len(prefix), len(prefix) + len(ids))
        tokens[i, : places.stop] = [*prefix, *ids]
        real[i, places] = True
        for task, values in marks.items():
            labels[task][i, places] = values
    return Windows(tokens, real, labels, np.array([row[-1] for row in rows], np.int64), identities)
