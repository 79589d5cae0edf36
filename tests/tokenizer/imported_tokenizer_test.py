"""Tokenizers from elsewhere against transformers: the same ids, and bytes that add up to the text."""

import json
import sys

import pytest
from imported_families import FIXTURES

from llm.errors import UserError
from llm.tokenizer import copy_tokenizer, has_tokenizer, open_directory, open_workdir
from llm.tokenizer.huggingface import byte_alphabet

NASTY = ['<|endoftext|>', '<s></s><unk>', '<|eot|><|start|>user', '<bos><start_of_turn>', '[INST] <|im_end|>', '<0x41>']


@pytest.fixture(scope='module', params=sorted(FIXTURES))
def family(request):
    return request.param


def texts(family):
    """Those that transformers reads as SentencePiece itself does: from a model file it loses a space at the start."""
    found = FIXTURES[family]['texts']
    return [entry for entry in found if family != 'sentencepiece' or entry['text'][0] not in ' ▁']


def test_ids_are_those_of_transformers(family, tokenizer):
    for entry in texts(family):
        assert tokenizer.encode(entry['text']) == entry['ids'], entry['text']
        assert tokenizer.encode_text(entry['text']) == entry['whole'], entry['text']
    together = tokenizer.encode_batch([entry['text'] for entry in texts(family)], 2)
    assert together == [entry['ids'] for entry in texts(family)]


def test_text_comes_back_as_in_transformers(family, tokenizer):
    for entry in FIXTURES[family]['texts']:
        assert tokenizer.decode(entry['whole']) == entry['back']


def test_text_comes_back_where_it_can(family, tokenizer):
    for entry in FIXTURES[family]['texts']:
        exact = tokenizer.decode_bytes(tokenizer.encode(entry['text'])) == entry['text'].encode()
        # A "▁" is a space to some, NFC composes an accent, and Llama's class of transformers drops a leading space.
        lost = '▁' in entry['text'] or '\u0301' in entry['text'] or entry['text'].startswith(' ')
        assert exact or (lost and family in ('gemma', 'llama2', 'llama2_old', 'qwen', 'sentencepiece')), entry['text']


def test_the_bytes_of_tokens_add_up(family, tokenizer):
    for entry in FIXTURES[family]['texts']:
        ids = tokenizer.encode(entry['text'])
        joined = b''.join(map(tokenizer.token_bytes, ids))
        assert joined == b' ' * tokenizer.leading_space + tokenizer.decode_bytes(ids)
        assert tokenizer.decode_bytes(ids, continued=True) == joined
        assert all(isinstance(tokenizer.piece(i), str) and tokenizer.piece(i) for i in ids)


def test_text_never_makes_a_special_token(family, tokenizer):
    for text in [*NASTY, *tokenizer.special.values()]:
        ids = tokenizer.encode(f'a{text}b')
        assert not set(ids) & set(tokenizer.special)
        assert tokenizer.decode(ids) == f'a{text}b'


def test_special_tokens_stand_for_no_text(tokenizer):
    for i, name in tokenizer.special.items():
        assert tokenizer.token_bytes(i) == b''
        assert tokenizer.piece(i) == name
    assert tokenizer.decode_bytes([10**9]) == b''


@pytest.mark.parametrize(
    ('family', 'bos', 'eos', 'stops', 'prefix'),
    [
        ('gpt2', '<|endoftext|>', '<|endoftext|>', ['<|endoftext|>'], []),
        ('llama3', '<|begin|>', '<|end|>', ['<|end|>', '<|eot|>'], ['<|begin|>']),
        ('qwen', None, '<|im_end|>', ['<|im_end|>'], []),
        ('llama2', '<s>', '</s>', ['</s>'], ['<s>']),
        ('sentencepiece', '<s>', '</s>', ['</s>'], ['<s>']),
        ('gemma', '<bos>', '<eos>', ['<eos>'], ['<bos>']),
    ],
)
def test_which_tokens_begin_and_end_a_text(folder, family, bos, eos, stops, prefix):
    tokenizer = open_directory(folder(family))
    name = lambda i: None if i is None else tokenizer.special[i]
    assert (name(tokenizer.bos_id), name(tokenizer.eos_id)) == (bos, eos)
    assert [name(i) for i in tokenizer.stop_ids] == stops
    assert [name(i) for i in tokenizer.prefix_ids] == prefix
    assert name(tokenizer.start_id) == bos or eos
    assert tokenizer.encode_text('') == [tokenizer.start_id]


def test_a_token_that_is_not_named_is_none(folder):
    """Qwen has no <bos>, whatever its model's config says of one."""
    source = folder('qwen')
    (source / 'config.json').write_text(json.dumps({'bos_token_id': 3, 'eos_token_id': 4}))
    tokenizer = open_directory(source)
    assert tokenizer.bos_id is None and tokenizer.start_id == tokenizer.end_id == tokenizer.eos_id
    assert tokenizer.stop_ids == (tokenizer.eos_id, 4)  # what its makers end a text with counts
    (source / 'config.json').write_text(json.dumps({'eos_token_id': [True, 4]}))
    assert open_directory(source).stop_ids == (tokenizer.eos_id, 4)  # true is no number


def test_bytes_that_are_not_utf8(folder):
    data = b'half \xe2\x96 and \xff'
    byte_level = open_directory(folder('gpt2'))
    assert byte_level.decode_bytes(byte_level.encode(data)) == data
    gemma = open_directory(folder('gemma'))
    assert gemma.decode_bytes(gemma.encode(data)) == data
    with pytest.raises(UserError, match='not UTF-8'):
        open_directory(folder('llama2')).encode(data)


def test_the_alphabet_of_bytes():
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(byte_alphabet().values()) == set(ByteLevel.alphabet())
    assert byte_alphabet()[ord(' ')] == 'Ġ' and byte_alphabet()[ord('\n')] == 'Ċ'


def test_a_run_keeps_the_files_as_they_came(family, folder, tmp_path):
    source, workdir = folder(family), tmp_path / 'run'
    assert not has_tokenizer(workdir)
    copied = copy_tokenizer(source, workdir)
    assert has_tokenizer(workdir)
    found = {path.name: path.read_bytes() for path in (workdir / 'tokenizer').iterdir()}
    assert found == {path.name: path.read_bytes() for path in source.iterdir()}
    again = open_workdir(workdir)
    assert again.digest == copied.digest == open_directory(source).digest
    copy_tokenizer(workdir, tmp_path / 'other')  # a run's own
    assert open_workdir(tmp_path / 'other').digest == copied.digest


def test_the_digest_is_of_what_decides_ids(folder):
    source = folder('llama3')
    before = open_directory(source).digest
    (source / 'chat_template.jinja').write_text('{{ messages[0].content }}')
    (source / 'generation_config.json').unlink()
    assert open_directory(source).digest == before
    settings = json.loads((source / 'tokenizer_config.json').read_text()) | {'eos_token': '<|eot|>'}
    (source / 'tokenizer_config.json').write_text(json.dumps(settings))
    assert open_directory(source).digest != before


@pytest.mark.parametrize(
    ('name', 'content', 'problem'),
    [
        ('tokenizer.json', '{"model": ', r'tokenizer\.json is damaged'),
        ('tokenizer.json', '{}', r'tokenizer\.json is damaged'),
        ('tokenizer_config.json', '[]', r'tokenizer_config\.json is damaged'),
        ('tokenizer_config.json', '{"bos_token": "<nowhere', r'tokenizer_config\.json is damaged'),
        ('tokenizer_config.json', '{"added_tokens_decoder": [5]}', r'one of .*tokenizer_config\.json.* does not say'),
        ('tokenizer_config.json', '{"added_tokens_decoder": {"x": 5}}', r'one of .*tokenizer_config\.json'),
        ('generation_config.json', '\x00', r'generation_config\.json is damaged'),
        (
            'tokenizer_config.json',
            '{"added_tokens_decoder": {"4000000000": {"content": "x"}}}',
            'is 4000000000, and not',
        ),
        ('added_tokens.json', '{"x": -1}', "token 'x' is -1, and not from 0"),
        pytest.param('generation_config.json', '[' * 100_000, r'generation_config\.json is damaged', id='deep list'),
        pytest.param(
            'generation_config.json', '{"a": ' * 100_000, r'generation_config\.json is damaged', id='deep object'
        ),
        ('chat_template.jinja', '{% if %}', 'not valid Jinja'),
        pytest.param(
            'chat_template.jinja', f'{{{{ {"(" * 5000}1{")" * 5000} }}}}', 'not valid Jinja', id='deep template'
        ),
    ],
)
def test_damaged_files_are_named(folder, name, content, problem):
    source = folder('llama3')
    (source / name).write_text(content)
    with pytest.raises(UserError, match=problem) as raised:
        open_directory(source)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('added', [False, True])
def test_an_id_that_no_vocabulary_has_is_named(folder, added):
    source = folder('gpt2')
    settings = json.loads((source / 'tokenizer.json').read_text())
    if added:
        settings['added_tokens'][-1]['id'] = 4_000_000_000
        settings['model']['vocab'][settings['added_tokens'][-1]['content']] = 4_000_000_000
    else:
        settings['model']['vocab'][list(settings['model']['vocab'])[-1]] = 4_000_000_000
    (source / 'tokenizer.json').write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r'tokenizer\.json is damaged .* is 4000000000, and not from 0') as raised:
        open_directory(source)
    assert '\n' not in str(raised.value)


def test_a_damaged_model_file_is_named(folder):
    source = folder('sentencepiece')
    (source / 'tokenizer.model').write_bytes(b'\xff' * 100)
    with pytest.raises(UserError, match='is damaged, or not of SentencePiece'):
        open_directory(source)


def test_a_missing_tokenizer_is_said(tmp_path):
    with pytest.raises(UserError, match=r'has no tokenizer: neither tokenizer\.json nor tokenizer\.model'):
        open_directory(tmp_path)
    with pytest.raises(UserError, match='there is no directory'):
        open_directory(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='cannot read the tokenizer'):
        open_workdir(tmp_path)
    with pytest.raises(UserError):
        copy_tokenizer(tmp_path, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('family', ['llama3', 'sentencepiece'])
def test_a_name_for_no_token(folder, family):
    """To a tokenizer.json it is added, as transformers does, which no model fits; a model file cannot have more."""
    source = folder(family)
    settings = json.loads((source / 'tokenizer_config.json').read_text()) | {'eos_token': '<nowhere>'}
    (source / 'tokenizer_config.json').write_text(json.dumps(settings))
    if family == 'sentencepiece':
        with pytest.raises(UserError, match=r"the eos_token '<nowhere>' is not in tokenizer\.model"):
            open_directory(source)
    else:
        tokenizer = open_directory(source)
        assert tokenizer.vocab_size == tokenizer.eos_id + 1


def test_a_missing_library_is_one_line(folder, monkeypatch):
    source = folder('gpt2')
    monkeypatch.setitem(sys.modules, 'tokenizers', None)
    with pytest.raises(UserError, match=r"pip install 'glassbox-llm\[huggingface\]'") as raised:
        open_directory(source)
    assert '\n' not in str(raised.value)
    open_directory(folder('sentencepiece'))  # does not need it


def test_pieces_without_exact_bytes_are_refused(folder):
    source = folder('gpt2')
    settings = json.loads((source / 'tokenizer.json').read_text())
    settings['decoder'] = {'type': 'WordPiece', 'prefix': '##', 'cleanup': True}
    (source / 'tokenizer.json').write_text(json.dumps(settings))
    with pytest.raises(UserError, match='decoder WordPiece have no exact bytes'):
        open_directory(source)


def test_what_is_lost_is_said_loudly(folder, tmp_path, caplog):
    copy_tokenizer(folder('gpt2'), tmp_path / 'gpt2_run')
    assert not caplog.records
    copy_tokenizer(folder('qwen'), tmp_path / 'qwen_run')
    assert 'normalises texts (NFC)' in caplog.text
    source = folder('llama2')
    settings = json.loads((source / 'tokenizer.json').read_text())
    settings['model']['byte_fallback'] = False
    (source / 'tokenizer.json').write_text(json.dumps(settings))
    copy_tokenizer(source, tmp_path / 'llama2_run')
    assert 'no tokens for some characters' in caplog.text


def test_a_model_that_knows_fewer_tokens_is_refused(tokenizer):
    tokenizer.check_fits(tokenizer.vocab_size)
    with pytest.raises(UserError, match=rf'ids go up to {tokenizer.vocab_size - 1}, beyond model\.vocab_size'):
        tokenizer.check_fits(tokenizer.vocab_size - 1)


def test_a_special_token_beyond_the_model_does_no_harm(folder):
    """Gemma 3's text models have fewer embeddings than their tokenizer has tokens: the last is of images."""
    source = folder('gemma')
    before = open_directory(source)
    settings = json.loads((source / 'tokenizer.json').read_text())
    last = settings['added_tokens'][-1]
    image = last | {'content': '<image>', 'id': len(settings['model']['vocab']) + (last['id'] >= 420)}
    settings['added_tokens'].append(image)
    (source / 'tokenizer.json').write_text(json.dumps(settings))
    after = open_directory(source)
    assert after.special[image['id']] == '<image>'
    assert after.vocab_size == before.vocab_size <= image['id']
