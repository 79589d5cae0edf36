import os

import pytest

from llm import cache
from llm import tokenizer as tokenizer_lib
from llm.config import TokenizerConfig
from llm.data import corpora, prepare, split
from llm.errors import UserError


def write(folder, texts, suffix='txt'):
    folder.mkdir(exist_ok=True)
    for i, text in enumerate(texts):
        (folder / f'{i}.{suffix}').write_text(text)


@pytest.fixture
def source(tmp_path):
    """100 documents, of which the pinned rule holds some out."""
    write(tmp_path / 'a', [f'document {i}\n' * 3 for i in range(100)])
    return f'text:{tmp_path}/a/*.txt'


def entries():
    return sorted((entry.kind, entry.key) for entry in cache.entries())


def test_every_document_is_on_its_side_once(source, configure):
    prepared = prepare.prepare(configure({'corpora': (source,)}))
    [train], [held_out] = prepared.train, prepared.held_out
    assert sorted(train.identities + held_out.identities) == sorted(f'{i}.txt' for i in range(100))
    assert all(map(split.is_held_out, held_out.identities))
    assert not any(map(split.is_held_out, train.identities))
    for store in (train, held_out):
        for i, identity in enumerate(store.identities):
            number = identity.removesuffix('.txt')
            assert prepared.tokenizer.decode(store.document(i)) == f'document {number}\n' * 3


def test_statistics_count_what_is_there(source, configure, tmp_path):
    write(tmp_path / 'b', ['document 7\n' * 3, 'twice', 'twice', *(f'other {i}' for i in range(40))])
    config = configure({'corpora': (source, f'text:{tmp_path}/b/*.txt')})
    prepared = prepare.prepare(config)
    counted = prepared.statistics
    assert counted['duplicates_dropped'] == 2
    assert [part['duplicates_dropped'] for part in counted['corpora']] == [0, 2]
    assert [part['source'] for part in counted['corpora']] == list(config.data.corpora)
    for side, stores in (('train', prepared.train), ('held_out', prepared.held_out)):
        assert counted[side]['documents'] == sum(len(store.identities) for store in stores)
        assert counted[side]['tokens'] == sum(len(store.tokens) - len(store.identities) for store in stores)
        assert [part[side]['bytes'] for part in counted['corpora']] == [s.num_bytes for s in stores]
    assert counted['train']['documents'] + counted['held_out']['documents'] == 100 + 43 - 2
    assert counted['tokenizer'] == {'vocab_size': 272, 'sha256': prepared.tokenizer.digest}


def test_overlap_is_reported(tmp_path, configure):
    copied = ''.join(f'{i:03}' for i in range(50))  # 150 byte tokens
    names = [f'{i}.txt' for i in range(100)]
    held_out = [i for i, name in enumerate(names) if split.is_held_out(name)]
    texts = [f'{i} {i * 7919:040}' for i in range(100)]
    texts[held_out[0]] += copied
    texts[next(i for i in range(100) if i not in held_out)] += 'x' + copied
    write(tmp_path / 'a', texts)
    overlap = prepare.prepare(configure({'corpora': (f'text:{tmp_path}/a/*.txt',)})).statistics['overlap']
    assert (overlap['run_length'], overlap['documents']) == (64, 1)
    assert overlap['tokens'] == 150 + 1  # and the EOS, which both end with
    assert 0 < overlap['fraction'] < 1


def test_the_second_time_nothing_is_read(source, configure, monkeypatch):
    config = configure({'corpora': (source,)}, tokenizer={'kind': 'bpe'}, vocab_size=300)
    first = prepare.prepare(config)

    def read(*_):
        raise AssertionError('read again')

    monkeypatch.setattr(corpora, '_text', read)
    second = prepare.prepare(config)
    assert second.tokenizer.digest == first.tokenizer.digest
    assert second.statistics == first.statistics
    assert (second.train[0].tokens == first.train[0].tokens).all()


def test_changed_content_and_settings_are_noticed(source, configure, tmp_path):
    data = {'corpora': (source,)}
    before = prepare.prepare(configure(data)).statistics['train']['bytes']
    (tmp_path / 'a' / '0.txt').write_text('document document document')
    assert prepare.prepare(configure(data)).statistics['train']['bytes'] != before
    bpe = [prepare.prepare(configure(data, {'kind': 'bpe'}, size)).tokenizer.vocab_size for size in (300, 301)]
    assert bpe == [300, 301]


def test_the_tokenizer_learns_from_training_documents_only(source, configure, tmp_path):
    config = configure({'corpora': (source,)}, tokenizer={'kind': 'bpe'}, vocab_size=300)
    before = prepare.prepare(config)
    for identity in before.held_out[0].identities:
        (tmp_path / 'a' / identity).write_text(f'quite another text {identity}' * 20)
    after = prepare.prepare(config)
    assert after.statistics != before.statistics
    assert after.tokenizer.digest == before.tokenizer.digest


def test_the_tokenizer_learns_from_no_more_than_it_may(source, configure, monkeypatch):
    config = configure({'corpora': (source,)}, tokenizer={'kind': 'bpe', 'training_bytes': 1000}, vocab_size=300)
    seen = []
    train = tokenizer_lib.train
    monkeypatch.setattr(tokenizer_lib, 'train', lambda c, v, texts: train(c, v, seen.extend(texts) or seen))
    total = prepare.prepare(config).statistics['train']['bytes']
    assert 500 < sum(map(len, seen)) < 1500 < total


def test_a_tokenizer_can_be_given(source, configure):
    tokenizer = tokenizer_lib.train(TokenizerConfig(), 300, ['some text of its own, with a few words in it'] * 20)
    prepared = prepare.prepare(configure({'corpora': (source,)}, vocab_size=300), tokenizer)
    assert prepared.tokenizer is tokenizer
    assert [kind for kind, _ in entries()] == ['token_stores']
    with pytest.raises(UserError, match=r'up to 299, beyond model\.vocab_size 280; .*at least 300'):
        prepare.prepare(configure({'corpora': (source,)}, vocab_size=280), tokenizer)


def test_a_corpus_without_held_out_documents_is_fine_beside_another(source, configure, tmp_path):
    write(tmp_path / 'b', ['only one document'])
    assert not split.is_held_out('0.txt')
    prepared = prepare.prepare(configure({'corpora': (f'text:{tmp_path}/b/*', source)}))
    assert prepared.train[0].num_documents == 1
    assert [store.source for store in prepared.held_out] == [source]


@pytest.mark.parametrize('kind', ['byte', 'bpe'])
def test_too_few_documents_are_one_line_and_leave_nothing(configure, tmp_path, kind):
    write(tmp_path / 'few', ['one document', 'another one'])
    config = configure({'corpora': (f'text:{tmp_path}/few/*',)}, {'kind': kind}, 300)
    with pytest.raises(UserError, match=r'none of the 2 documents is held out.*jsonl') as raised:
        prepare.prepare(config)
    assert '\n' not in str(raised.value)
    assert [kind for kind, _ in entries() if kind == 'token_stores'] == []
    twice = configure({'corpora': (f'text:{tmp_path}/few/*', f'text:{tmp_path}/f*w/*')})
    with pytest.raises(UserError, match=r'f\*w/\* has no document to train on .*2 dropped as duplicates'):
        prepare.prepare(twice)


def test_a_vocabulary_that_the_corpus_cannot_fill(source, configure):
    with pytest.raises(UserError, match='can fill at most'):
        prepare.prepare(configure({'corpora': (source,)}, {'kind': 'bpe'}, 4096))
    assert entries() == []


def test_a_damaged_store_is_named(source, configure, cache_root):
    config = configure({'corpora': (source,)})
    prepare.prepare(config)
    [file] = cache_root.glob('token_stores/*/train-0/tokens.bin')
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r'tokens\.bin is damaged'):
        prepare.prepare(config)
    [statistics] = cache_root.glob('token_stores/*/statistics.json')
    os.truncate(statistics, 10)
    with pytest.raises(UserError, match=r'statistics\.json is damaged'):
        prepare.prepare(config)
