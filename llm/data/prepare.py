"""From the names of corpora to token stores: open, drop duplicates, split, learn a tokenizer, tokenise. All of it is
cached, so that the next run on the same data starts at once."""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tqdm
from absl import logging

from llm import cache
from llm import tokenizer as tokenizer_lib
from llm.config import Config
from llm.data import split
from llm.data.corpora import Corpus, Document, open_corpus
from llm.data.token_store import StoreWriter, TokenStore, tokenize
from llm.errors import UserError
from llm.tokenizer import GlassboxTokenizer, Tokenizer
from llm.workdir import write_atomically

_SIDES = ('train', 'held_out')
_FORMAT = 2  # part of every key: raised when what is cached changes


@dataclass(frozen=True)
class Prepared:
    """Data that is ready to train on."""

    tokenizer: Tokenizer
    train: list[TokenStore]  # one per corpus, in the order of the config
    held_out: list[TokenStore]  # one per corpus that has held-out documents, in the same order
    statistics: dict[str, Any]  # plain values, for summary.json

    @property
    def digest(self) -> str:
        """SHA-256 over the tokens of all stores: what decides every batch."""
        sums = [store.meta['sha256']['tokens.bin'] for store in (*self.train, *self.held_out)]
        return hashlib.sha256(' '.join(sums).encode()).hexdigest()


def prepare(config: Config, tokenizer: Tokenizer | None = None) -> Prepared:
    """Makes the corpora of a config ready, from the cache where they are in it.

    Args:
        config: `data`, `tokenizer` and `model.vocab_size` decide.
        tokenizer: used instead of one that is learned from the training documents.

    Raises:
        UserError: if a corpus is missing, empty or unreadable, does not fill the vocabulary, or has too few documents
            to hold one out; if the tokenizer knows more tokens than the model; if the cached store is damaged.
    """
    corpora = [open_corpus(source, config.data) for source in config.data.corpora]
    if tokenizer is None:
        tokenizer = _cached_tokenizer(config, corpora)
    tokenizer.check_fits(config.model.vocab_size)
    key = _key(config, corpora, tokenizer=tokenizer.digest)
    names = ', '.join(config.data.corpora)
    folder = cache.entry(
        'token_stores',
        key,
        lambda path: _build_stores(path, corpora, tokenizer),
        f'{names} in tokens of the tokenizer {tokenizer.digest[:12]}',
    )
    statistics = _read_statistics(folder)
    if changed := statistics.get('changed_by_tokenizer'):
        logging.warning(
            '%d of %d documents do not come back from the tokenizer as they were: what it leaves out costs no bits, so '
            'bits per byte are too low',
            *(changed, sum(statistics[side]['documents'] for side in _SIDES)),
        )
    stores = {
        side: [
            TokenStore.open(folder / f'{side}-{i}') for i, c in enumerate(statistics['corpora']) if c[side]['documents']
        ]
        for side in _SIDES
    }
    return Prepared(tokenizer, stores['train'], stores['held_out'], statistics)


def _split(corpora: list[Corpus], duplicates: split.Deduplicator) -> Iterator[tuple[tuple[int, str], Document]]:
    """Every document once, with which corpus it comes from and its side ('train' or 'held_out').

    Raises:
        UserError: at the end, if a corpus has nothing to train on, or none of them holds anything out.
    """
    total = dict.fromkeys(_SIDES, 0)
    for i, corpus in enumerate(corpora):
        count = dict.fromkeys(_SIDES, 0)
        for document in duplicates.unique(corpus.source, corpus.read()):
            side = 'held_out' if split.is_held_out(document.identity) else 'train'
            count[side] += 1
            total[side] += 1
            yield (i, side), document
        if not count['train']:
            raise UserError(
                f'{corpus.source} has no document to train on ({count["held_out"]} held out, '
                f'{duplicates.dropped[corpus.source]} dropped as duplicates); give it more documents'
            )
    if not total['held_out']:
        raise UserError(
            f'none of the {total["train"]} documents is held out: a hash of its name chooses one in '
            f'{split.HELD_OUT_ONE_IN}; give more documents, or cut them into more files or the lines of a jsonl: corpus'
        )


def _cached_tokenizer(config: Config, corpora: list[Corpus]) -> Tokenizer:
    """The tokenizer learned from the training documents."""

    def build(path: pathlib.Path) -> None:
        # Of a corpus that is too large, an even share of every document's chunks, chosen by their content.
        budget = config.tokenizer.training_bytes
        share = budget / max(1, sum(corpus.bytes for corpus in corpora))
        chunks, size = [], 0
        for (_, side), document in _split(corpora, split.Deduplicator()):
            if side == 'held_out' or size >= budget:
                continue
            for chunk in tokenizer_lib.training_chunks(document.text.decode()):
                data = chunk.encode()
                if zlib.crc32(data) < share * 2**32:
                    chunks.append(chunk)
                    size += len(data)
        logging.info('learning a %s vocabulary from %d bytes', config.tokenizer.kind, size)
        tokenizer_lib.train(config.tokenizer, config.model.vocab_size, chunks).save(path / 'tokenizer.model')

    settings = dataclasses.asdict(config.tokenizer) | {'vocab_size': config.model.vocab_size}
    key = _key(config, corpora, **settings)
    description = f'{config.tokenizer.kind} of {config.model.vocab_size}, learned from {", ".join(config.data.corpora)}'
    folder = cache.entry('tokenizers', key, build, description)
    return GlassboxTokenizer.load(folder / 'tokenizer.model')


def _build_stores(folder: pathlib.Path, corpora: list[Corpus], tokenizer: Tokenizer) -> None:
    duplicates = split.Deduplicator()
    writers: dict[tuple[int, str], StoreWriter] = {}
    total = sum(corpus.bytes for corpus in corpora)
    changed = 0  # documents that do not come back as they were
    with tqdm.tqdm(
        desc='tokenising', total=total, unit='B', unit_scale=True, file=sys.stderr, disable=None
    ) as progress:
        for (i, side), document, ids in tokenize(_split(corpora, duplicates), tokenizer):
            if (i, side) not in writers:
                writers[i, side] = StoreWriter(folder / f'{side}-{i}', corpora[i].source, tokenizer)
            writers[i, side].add(document, ids)
            changed += not tokenizer.exact and tokenizer.decode_bytes(ids) != document.text
            progress.update(len(document.text))
    for writer in writers.values():
        writer.finish()
    stores = {place: TokenStore.open(folder / f'{place[1]}-{place[0]}', verify=False) for place in writers}
    statistics = _statistics(stores, corpora, duplicates, tokenizer) | {
        'tokenizer': {'vocab_size': tokenizer.vocab_size, 'sha256': tokenizer.digest}
    }
    if not tokenizer.exact:
        statistics['changed_by_tokenizer'] = changed
    write_atomically(folder / 'statistics.json', json.dumps(statistics, indent=2) + '\n')


def _statistics(
    stores: dict[tuple[int, str], TokenStore],
    corpora: list[Corpus],
    duplicates: split.Deduplicator,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Documents, UTF-8 bytes and predicted tokens per corpus and side, and what the two sides share."""

    def size(chosen: list[TokenStore]) -> dict[str, int]:
        return {name: sum(getattr(s, f'num_{name}') for s in chosen) for name in ('documents', 'bytes', 'tokens')}

    def side(name: str) -> list[TokenStore]:
        return [store for (_, s), store in stores.items() if s == name]

    sizes = {name: size(side(name)) for name in _SIDES}
    copied_tokens, copied_documents = 0, 0
    for store in side('held_out'):
        copied = split.copied_tokens(store.tokens, (s.tokens for s in side('train')), start_id=tokenizer.start_id)
        copied_tokens += int(copied.sum())
        copied_documents += int(np.count_nonzero(np.add.reduceat(copied, store.offsets[:-1], dtype=np.int64)))
    return {
        **sizes,
        'bytes_per_token': sum(s['bytes'] for s in sizes.values()) / sum(s['tokens'] for s in sizes.values()),
        'duplicates_dropped': sum(duplicates.dropped.values()),
        'overlap': {  # held-out text that also occurs in training documents, in runs of at least so many tokens
            'run_length': split.RUN_LENGTH,
            'tokens': copied_tokens,
            'fraction': copied_tokens / sizes['held_out']['tokens'],
            'documents': copied_documents,
        },
        'corpora': [
            {
                'source': corpus.source,
                **{name: size([stores[i, name]] if (i, name) in stores else []) for name in _SIDES},
                'duplicates_dropped': duplicates.dropped[corpus.source],
            }
            for i, corpus in enumerate(corpora)
        ],
    }


def _read_statistics(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / 'statistics.json'
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is damaged ({error}); delete {folder} and run again') from error


def _key(config: Config, corpora: list[Corpus], **settings: Any) -> str:
    """A hash of the corpora, as they are on disk, and of what is made from them."""
    parts = {
        'format': _FORMAT,
        'corpora': [(corpus.source, corpus.fingerprint) for corpus in corpora],
        'text_field': config.data.text_field,
        'bad_bytes': config.data.bad_bytes,
        'sentencepiece': importlib.metadata.version('sentencepiece'),
        **settings,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
