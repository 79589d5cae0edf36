import pathlib
import random
import re
import sysconfig

import pytest

from llm import tokenizer as tokenizer_lib
from llm.config import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer import SPECIAL_TOKENS, GlassboxTokenizer

NASTY = [
    '',
    ' ',
    '  leading, trailing  ',
    '\n\n\n',
    'a\r\nb\rc\n',
    '\ttab\t\t\ttabs \t ',
    '\x00\x01\x1b[0m\x7f\x85',
    '▁ literal ▁▁ ▁',
    '▅▁\uf009\ue000\ufffd\ufeff',
    'naïve café — “quotes” 東京 عربى ไทย',
    '😀👩‍👩‍👧‍👦 e\u0301 \u200b\u2028\u3000',
    '<bos><eos><pad><unk><|user|><|end|><|reserved_0|></s><s><0x41>',
    '0123456789 1e-10 ٣',
    '\U0010ffff\U000e0001',
    b'\xff\xfe\x80',
    b'half a character \xe2\x96 and on',
    b'\xed\xa0\x80 a surrogate in bytes',
    b'\xe2\x96\x81\xff\xe2\x96\x81',
    bytes(range(256)),
    '\udcff as Python reads a bad byte',
]


def texts():
    folder = pathlib.Path(sysconfig.get_paths()['stdlib'])
    return [(folder / name).read_text() for name in ('textwrap.py', 'heapq.py', 'bisect.py', 'string.py')]


def train(kind, vocab_size=600, extra=()):
    return tokenizer_lib.train(TokenizerConfig(kind=kind), vocab_size, [*texts(), *extra])


@pytest.fixture(scope='module', params=['bpe', 'unigram', 'byte'])
def tokenizer(request):
    return train(request.param)


@pytest.fixture(scope='module')
def bpe():
    return train('bpe', extra=['\tif x:\n\t\treturn\n' * 500])


def as_bytes(text):
    return text.encode('utf-8', 'surrogateescape') if isinstance(text, str) else text


@pytest.mark.parametrize('text', NASTY, ids=range(len(NASTY)))
def test_nasty_text_survives(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == as_bytes(text)
    assert b''.join(map(tokenizer.token_bytes, ids)) == as_bytes(text)
    assert all(len(SPECIAL_TOKENS) <= i < tokenizer.vocab_size for i in ids), 'text made a special token'
    assert tokenizer.decode(ids) == as_bytes(text).decode('utf-8', 'replace')


def test_random_text_and_bytes_survive(tokenizer):
    draw = random.Random(0)
    alphabet = [*'ab \n\t\r▁▅<>|0189_\uf009\x00', 'bos', 'é', '東', '😀', '    ', chr(0xDC80), chr(0xDCE2)]
    for _ in range(300):
        text = ''.join(draw.choices(alphabet, k=draw.randrange(40)))
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == as_bytes(text)
        data = draw.randbytes(draw.randrange(40))
        assert tokenizer.decode_bytes(tokenizer.encode(data)) == data
        character = chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)]))
        assert tokenizer.decode(tokenizer.encode(f'a{character}b')) == f'a{character}b'


def test_text_and_its_bytes_have_the_same_ids(tokenizer):
    for text in [*NASTY, *texts()]:
        assert tokenizer.encode(text) == tokenizer.encode(as_bytes(text))


def test_a_batch_is_its_texts_on_any_number_of_threads(tokenizer):
    batch = [*texts(), *NASTY]
    alone = [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_batch(batch, num_threads=1) == alone
    assert tokenizer.encode_batch(batch, num_threads=5) == alone


def test_ids_that_never_move(tokenizer):
    names = ['<pad>', '<bos>', '<eos>', '<unk>', '<|system|>', '<|user|>', '<|assistant|>', '<|end|>']
    assert [tokenizer.piece(i) for i in range(8)] == names
    assert [tokenizer.piece(8 + i) for i in range(8)] == [f'<|reserved_{i}|>' for i in range(8)]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert [tokenizer.token_bytes(16 + b) for b in range(256)] == [bytes([b]) for b in range(256)]
    assert tokenizer.decode_bytes(range(16)) == b''
    assert tokenizer.decode_bytes([tokenizer.vocab_size, 10**9]) == b''


def test_vocabulary_is_as_large_as_asked():
    assert (train('bpe').vocab_size, train('unigram').vocab_size, train('byte').vocab_size) == (600, 600, 272)


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_digits_are_split_only_if_asked(kind):
    numbers = ['1234567890 ' * 500, *texts()]
    split = tokenizer_lib.train(TokenizerConfig(kind=kind), 600, numbers)
    assert all(len(split.token_bytes(i)) == 1 for i in split.encode('31415926535'))
    whole = tokenizer_lib.train(TokenizerConfig(kind=kind, split_digits=False), 600, numbers)
    assert len(whole.encode(' 1234567890')) < 10


def test_pieces_run_over_the_ends_of_lines(bpe):
    pieces = [bpe.token_bytes(i) for i in range(272, bpe.vocab_size)]
    assert any(piece.endswith(b'\n') and len(piece) > 1 for piece in pieces)
    assert any(b'\t\t' in piece for piece in pieces), 'tabs in training text are learned'
    assert len(bpe.encode('\t\treturn\n')) < len('\t\treturn\n') / 2


def test_invalid_utf8_is_shown(tokenizer):
    assert tokenizer.decode([16 + 0xE2, 16 + ord('x')]) == '\ufffdx'


def test_pieces_are_printable(tokenizer):
    for i in range(tokenizer.vocab_size + 1):
        piece = tokenizer.piece(i)
        assert piece.isprintable()
        assert piece
        assert ' ' not in piece
    assert tokenizer.piece(16 + ord('\n')) == '\\n'
    assert tokenizer.piece(16 + 0xFF) == '<0xFF>'


def test_same_text_and_settings_same_file(tokenizer, tmp_path):
    kind = {600: 'bpe', 272: 'byte'}[tokenizer.vocab_size]
    if kind == 'bpe' and tokenizer.digest != train('bpe').digest:
        kind = 'unigram'
    train(kind).save(tmp_path / 'again')
    tokenizer.save(tmp_path / 'first')
    assert (tmp_path / 'again').read_bytes() == (tmp_path / 'first').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['again', 'first']


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / 'model')
    loaded = GlassboxTokenizer.load(tmp_path / 'model')
    assert loaded.digest == tokenizer.digest
    assert loaded.vocab_size == tokenizer.vocab_size
    assert all(loaded.encode(text) == tokenizer.encode(text) for text in NASTY)


def test_any_damage_is_noticed(tokenizer, tmp_path):
    tokenizer.save(tmp_path / 'model')
    model = (tmp_path / 'model').read_bytes()
    draw, path = random.Random(0), tmp_path / 'damaged'
    flipped = [bytearray(model) for _ in range(40)]
    for data in flipped:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    for data in [*flipped, model[:-1], model + b'\n', model[: len(model) // 2], b'', b'text']:
        path.write_bytes(data)
        with pytest.raises(UserError, match=re.escape(str(path))):
            GlassboxTokenizer.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'missing\.model'):
        GlassboxTokenizer.load(tmp_path / 'missing.model')


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_a_vocabulary_that_does_not_fit_says_what_does(kind):
    with pytest.raises(UserError, match='can fill at most') as raised:
        train(kind, 100_000)
    largest = int(re.search(r'at most (\d+)', str(raised.value))[1])
    assert train(kind, largest).vocab_size == largest
    with pytest.raises(UserError, match='must be at least') as raised:
        train(kind, 280)
    smallest = int(re.search(r'at least (\d+)', str(raised.value))[1])
    assert train(kind, smallest).vocab_size == smallest
    with pytest.raises(UserError, match='must be at least 272'):
        train(kind, 271)


def test_no_text_is_an_error():
    with pytest.raises(UserError, match='no vocabulary can be learned'):
        tokenizer_lib.train(TokenizerConfig(), 600, [])


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(UserError, match=r'\\ud800'):
        tokenizer.encode('ab\ud800')


def test_training_chunks_are_the_text_cut_at_ends_of_lines():
    for text in [*texts(), 'x' * 5001, '', '\n' * 3000, 'a\r\nb' * 1000]:
        chunks = list(tokenizer_lib.training_chunks(text))
        assert ''.join(chunks) == text
        assert all(0 < len(chunk) <= 2000 for chunk in chunks)
    assert all(chunk.endswith('\n') for chunk in tokenizer_lib.training_chunks(texts()[0]))
