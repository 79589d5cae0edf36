"""The files of a model's tokenizer, kept in a workdir as they came."""

import pathlib
import shutil

from llm.errors import UserError
from llm.workdir import Workdir

FOLDER = 'tokenizer'
VOCABULARIES = ('tokenizer.json', 'tokenizer.model')
FILES = (
    *VOCABULARIES,
    *('tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'),
    *('chat_template.jinja', 'chat_template.json', 'generation_config.json', 'config.json'),
)


def copy_tokenizer(source: pathlib.Path, workdir: pathlib.Path) -> None:
    """Copies what there is.

    Raises:
        UserError: if there is no vocabulary.
    """
    if not any((source / name).is_file() for name in VOCABULARIES):
        raise UserError(f'{source} has no tokenizer: neither {" nor ".join(VOCABULARIES)} is there; add one of them')
    (workdir / FOLDER).mkdir(parents=True)
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, workdir / FOLDER / name)


def export_tokenizer(workdir: Workdir, target: pathlib.Path) -> None:
    """Copies an imported tokenizer back."""
    for name in FILES:
        if name != 'config.json' and (workdir.path / FOLDER / name).is_file():
            shutil.copyfile(workdir.path / FOLDER / name, target / name)
