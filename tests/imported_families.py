"""The tokenizers of tests/fixtures/tokenizers.json, as folders."""

import base64
import json
import pathlib

FIXTURES = json.loads((pathlib.Path(__file__).parent / 'fixtures' / 'tokenizers.json').read_text())


def write(family, folder):
    """The files of a family, as transformers left them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FIXTURES[family]['files'].items():
        if family == 'sentencepiece':
            (folder / name).write_bytes(base64.b64decode(content))
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder
