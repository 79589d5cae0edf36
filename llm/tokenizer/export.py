"""A run's tokenizer as others read it: the files that it came in, or ours as a tokenizer.json.

The ids of ours are the same there, but for what the format cannot say. A text that spells a special token is read as
that token, unless the reader is told not to. With learned pieces, a literal "▁" is read as a space and a literal U+F009
as a tab. Unigram pieces: of two ways to cut a text that are equally likely, the other one may be taken.
"""

import json
import os
import pathlib
from typing import Any

from llm.tokenizer.files import open_workdir
from llm.tokenizer.glassbox import SPECIAL_TOKENS, GlassboxTokenizer
from llm.tokenizer.interface import Tokenizer

# The conversations of `llm.chat`, as text.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}
            {{- message['content'] + eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""
_NEVER = -1e6  # the score of a unigram piece that is in no text


def export_tokenizer(workdir: str | os.PathLike, target: str | os.PathLike) -> list[str]:
    """Writes the tokenizer of a run into a directory, as `transformers.AutoTokenizer` opens it.

    Args:
        workdir: the run's folder.
        target: an existing directory.

    Returns:
        The names of the files.

    Raises:
        UserError: if the run has no tokenizer, or it is damaged.
    """
    files = exported_files(open_workdir(workdir))
    for name, content in files.items():
        (pathlib.Path(target) / name).write_bytes(content)
    return list(files)


def exported_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a tokenizer, by name; the model's config.json is not among them."""
    if not isinstance(tokenizer, GlassboxTokenizer):
        return {name: content for name, content in tokenizer.files.items() if name != 'config.json'}
    named = {f'{name}_token': f'<{name}>' for name in ('bos', 'eos', 'pad', 'unk')}
    config = named | {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'clean_up_tokenization_spaces': False,
        'add_bos_token': True,
        'add_eos_token': False,
    }
    files = {
        'tokenizer.json': json.dumps(tokenizer_json(tokenizer), ensure_ascii=False, indent=1) + '\n',
        'tokenizer_config.json': json.dumps(config, indent=2) + '\n',
        'special_tokens_map.json': json.dumps(named, indent=2) + '\n',
        'chat_template.jinja': CHAT_TEMPLATE,
    }
    return {name: text.encode() for name, text in files.items()}


def tokenizer_json(tokenizer: GlassboxTokenizer) -> dict[str, Any]:
    """Our tokenizer in the format of the library `tokenizers`."""
    replace = lambda old, new: {'type': 'Replace', 'pattern': {'String': old}, 'content': new}
    stands_for = {} if tokenizer.kind == 'byte' else {'\t': '\uf009', ' ': '▁'}  # inside SentencePiece
    special = {'special': True, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False}
    begin = {'SpecialToken': {'id': '<bos>', 'type_id': 0}}
    text = lambda name, number: {'Sequence': {'id': name, 'type_id': number}}
    return {
        'version': '1.0',
        'truncation': None,
        'padding': None,
        'added_tokens': [{'id': i, 'content': name} | special for i, name in enumerate(SPECIAL_TOKENS)],
        'normalizer': {'type': 'Sequence', 'normalizers': [replace(*pair) for pair in stands_for.items()]},
        'pre_tokenizer': None,
        'post_processor': {
            'type': 'TemplateProcessing',
            'single': [begin, text('A', 0)],
            'pair': [begin, text('A', 0), text('B', 1)],
            'special_tokens': {'<bos>': {'id': '<bos>', 'ids': [tokenizer.bos_id], 'tokens': ['<bos>']}},
        },
        'decoder': {
            'type': 'Sequence',
            'decoders': [
                *(replace(mark, text) for text, mark in stands_for.items()),
                {'type': 'ByteFallback'},
                {'type': 'Fuse'},
            ],
        },
        'model': _unigram(tokenizer) if tokenizer.kind == 'unigram' else _bpe(tokenizer),
    }


def _bpe(tokenizer: GlassboxTokenizer) -> dict[str, Any]:
    """Byte-pair merges: any two neighbours that make a piece are merged, pieces learned first going first."""
    pieces = tokenizer.pieces()
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    learned = sorted(pieces[len(SPECIAL_TOKENS) + 256 :], key=lambda entry: -entry[1])
    merges = [
        [piece[:at], piece[at:]]
        for piece, _ in learned
        for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids
    ]
    return {
        'type': 'BPE',
        'dropout': None,
        'unk_token': '<unk>',
        'continuing_subword_prefix': None,
        'end_of_word_suffix': None,
        'fuse_unk': False,
        'byte_fallback': True,
        'ignore_merges': False,
        'vocab': ids,
        'merges': merges,
    }


def _unigram(tokenizer: GlassboxTokenizer) -> dict[str, Any]:
    """Pieces with their log-probabilities. Special tokens and bytes are never found in a text by their names."""
    first = len(SPECIAL_TOKENS) + 256
    vocabulary = [[piece, score if i >= first else _NEVER] for i, (piece, score) in enumerate(tokenizer.pieces())]
    return {'type': 'Unigram', 'unk_id': tokenizer.unk_id, 'vocab': vocabulary, 'byte_fallback': True}
