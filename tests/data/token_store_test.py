import dataclasses
import json
import re

import numpy as np
import pytest

from llm import tokenizer as tokenizer_lib
from llm.config import TokenizerConfig
from llm.data.corpora import Document
from llm.data.token_store import StoreWriter, TokenStore, tokenize
from llm.errors import UserError

DOCUMENTS = [Document('a.txt', b'one'), Document('b/\udcff"\n.txt', 'zwölf ▁'.encode()), Document('empty', b'')]


@pytest.fixture(scope='module')
def tokenizer():
    return tokenizer_lib.train(TokenizerConfig(kind='byte'), 272, [])


@pytest.fixture
def path(tmp_path, tokenizer):
    writer = StoreWriter(tmp_path / 'store', 'text:x', tokenizer)
    for _, document, ids in tokenize(((None, d) for d in DOCUMENTS), tokenizer):
        writer.add(document, ids)
    writer.finish()
    return tmp_path / 'store'


def test_what_was_written_is_read(path, tokenizer):
    store = TokenStore.open(path)
    assert [tokenizer.decode_bytes(store.document(i)) for i in range(3)] == [d.text for d in DOCUMENTS]
    assert store.identities == [d.identity for d in DOCUMENTS]
    assert store.document_bytes.tolist() == [len(d.text) for d in DOCUMENTS]
    assert (store.num_documents, store.num_bytes) == (3, sum(len(d.text) for d in DOCUMENTS))
    assert store.num_tokens == store.num_bytes + 3  # the byte tokenizer's tokens, and an EOS each
    assert store.source == 'text:x'


def test_the_stream_is_bos_document_eos(path):
    store = TokenStore.open(path)
    assert store.tokens.dtype == np.uint16
    assert store.tokens.tolist()[:6] == [1, *(16 + b for b in b'one'), 2, 1]
    assert (store.tokens[store.offsets[:-1]] == 1).all()
    assert (store.tokens[store.offsets[1:] - 1] == 2).all()
    assert store.offsets[-1] == len(store.tokens)


def test_provenance(path, tokenizer):
    meta = json.loads((path / 'meta.json').read_text())
    assert meta['tokenizer_sha256'] == tokenizer.digest
    assert (meta['documents'], meta['tokens'], meta['source']) == (3, len(TokenStore.open(path).tokens), 'text:x')


@pytest.mark.parametrize('name', ['tokens.bin', 'offsets.bin', 'bytes.bin', 'identities.json', 'meta.json'])
@pytest.mark.parametrize('damage', ['flip', 'cut', 'remove'])
def test_damage_is_named(path, name, damage):
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 4
    if damage == 'remove':
        (path / name).unlink()
    else:
        (path / name).write_bytes(data if damage == 'flip' else data[: len(data) // 2])
    with pytest.raises(UserError, match=f'damaged.*delete the folder {re.escape(str(path.parent))}'):
        TokenStore.open(path)
    if name != 'meta.json':
        with pytest.raises(UserError, match=re.escape(str(path / name))):
            TokenStore.open(path)


def test_large_vocabularies_get_32_bits(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), 'vocab_size', 70_000)
    writer = StoreWriter(tmp_path / 'store', 'x', tokenizer)
    writer.add(DOCUMENTS[0], [69_999])
    writer.finish()
    assert TokenStore.open(tmp_path / 'store').tokens.tolist() == [1, 69_999, 2]


def test_tokenize_keeps_order_and_labels_over_batches(tokenizer, monkeypatch):
    monkeypatch.setattr('llm.data.token_store._BATCH', 10)
    documents = [(i, dataclasses.replace(DOCUMENTS[0], text=str(i).encode() * (i % 7))) for i in range(50)]
    found = list(tokenize(iter(documents), tokenizer))
    assert [(label, document) for label, document, _ in found] == documents
    assert all(ids == tokenizer.encode(document.text) for _, document, ids in found)
    assert list(tokenize(iter([]), tokenizer)) == []
