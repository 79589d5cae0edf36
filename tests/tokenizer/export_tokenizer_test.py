"""Our tokenizer as others read it: the same ids, the same conversations."""

import json
import pathlib
import sysconfig

import numpy as np
import pytest
from imported_families import write

from llm import chat
from llm.config import TokenizerConfig
from llm.tokenizer import copy_tokenizer, open_directory, train
from llm.tokenizer.export import export_tokenizer

LIBRARY = pathlib.Path(sysconfig.get_paths()['stdlib'])
NASTY = [
    *('', ' ', '  two ', '\ttab\t\t', '\n\n\n', 'a\r\nb\rc\n', '\x00\x01\x1b[0m\x7f\x85', '▅ a boundary'),
    *('naïve café — “quotes” 東京 عربى', '😀👩‍👩‍👧‍👦 e\u0301 \u200b\u3000', '<0x41> <pad> <bos><|user|>', '0123456789'),
]
TALK = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': 'Hi  there'},
    {'role': 'assistant', 'content': ' Hello\n'},
    {'role': 'user', 'content': ''},
    {'role': 'assistant', 'content': 'Bye'},
]


def source(*names):
    return [(LIBRARY / f'{name}.py').read_text() for name in names]


@pytest.fixture(scope='module', params=['bpe', 'unigram', 'byte'])
def both(request, tmp_path_factory):
    """Ours, its export opened again, and the folder."""
    ours = train(TokenizerConfig(kind=request.param), 700, source('textwrap', 'heapq', 'string', 'bisect'))
    workdir, folder = tmp_path_factory.mktemp('run'), tmp_path_factory.mktemp('export')
    ours.save_in(workdir)
    export_tokenizer(workdir, folder)
    assert ours.kind == request.param
    return ours, open_directory(folder), folder


def test_the_ids_are_ours(both):
    ours, exported, _ = both
    assert exported.vocab_size == ours.vocab_size and not exported.losses
    assert (exported.bos_id, exported.eos_id, exported.pad_id, exported.unk_id) == (1, 2, 0, 3)
    assert (exported.prefix_ids, exported.stop_ids) == (ours.prefix_ids, ours.stop_ids)
    for text in [*NASTY, *source('argparse', 'inspect', 'typing')]:
        mine, theirs = ours.encode(text), exported.encode(text)
        assert exported.decode(theirs) == text
        if ours.kind == 'unigram':  # where two ways are equally likely, either may be taken
            assert sum(np.bincount(mine, minlength=700) != np.bincount(theirs, minlength=700)) <= 8
        else:
            assert mine == theirs


def test_tokens_have_the_same_bytes(both):
    ours, exported, _ = both
    for i in range(ours.vocab_size):
        assert exported.token_bytes(i) == ours.token_bytes(i)
        assert exported.piece(i) == ours.piece(i)


def test_conversations_are_ours(both):
    ours, exported, _ = both
    assert chat.encode(exported, TALK) == chat.encode(ours, TALK)
    assert chat.encode_prompt(exported, TALK[:2]) == chat.encode_prompt(ours, TALK[:2])
    assert chat.end_ids(exported) == chat.end_ids(ours)
    exchange = chat.encode_exchange(ours, TALK[:2], 'Hello')
    assert chat.encode_exchange(exported, TALK[:2], 'Hello') == exchange


def test_an_imported_tokenizer_leaves_as_it_came(tmp_path):
    origin, workdir, target = write('qwen', tmp_path / 'origin'), tmp_path / 'run', tmp_path / 'out'
    (origin / 'config.json').write_text(json.dumps({'model_type': 'qwen2'}))
    copy_tokenizer(origin, workdir)
    target.mkdir()
    names = export_tokenizer(workdir, target)
    assert sorted(names) == sorted(path.name for path in target.iterdir())
    left = {path.name: path.read_bytes() for path in origin.iterdir() if path.name != 'config.json'}
    assert {path.name: path.read_bytes() for path in target.iterdir()} == left  # the model's own is the model's affair


def test_transformers_opens_it(both):
    transformers = pytest.importorskip('transformers')
    ours, _, folder = both
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in NASTY[:10]:
        assert theirs(text).input_ids == ours.encode_text(text)
        assert theirs.decode(ours.encode(text)) == text
    given = theirs.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    whole = chat.encode(ours, TALK)
    assert (list(given['input_ids']), list(given['assistant_masks'])) == (whole.ids, list(map(int, whole.mask)))
