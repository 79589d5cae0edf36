"""Where tokenizers lie: in a run's folder, or in a directory as Hugging Face's `save_pretrained` leaves it."""

import os
import pathlib
import shutil

from absl import logging

from llm.errors import UserError
from llm.tokenizer.glassbox import MODEL_FILE, GlassboxTokenizer
from llm.tokenizer.interface import Tokenizer

FOLDER = 'tokenizer'  # of a run whose tokenizer came from elsewhere: the files as they came
VOCABULARIES = ('tokenizer.json', 'tokenizer.model')  # which of them a directory has; the first is preferred
# What else says how it is used. config.json is the model's: it has the ids that older directories name nowhere else.
FILES = (
    *VOCABULARIES,
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'chat_template.jinja',
    'chat_template.json',
    'generation_config.json',
    'config.json',
)


def has_tokenizer(workdir: str | os.PathLike) -> bool:
    """Whether a run's folder has one."""
    path = pathlib.Path(workdir)
    return (path / FOLDER).is_dir() or (path / MODEL_FILE).is_file()


def open_workdir(workdir: str | os.PathLike) -> Tokenizer:
    """Opens the tokenizer of a run, whichever kind it is.

    Args:
        workdir: the run's folder, `Workdir.path`.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    path = pathlib.Path(workdir)
    if (path / FOLDER).is_dir():
        return open_directory(path / FOLDER)
    return GlassboxTokenizer.load(path / MODEL_FILE)


def open_directory(directory: str | os.PathLike) -> Tokenizer:
    """Opens the tokenizer of a directory: its tokenizer.json, else its tokenizer.model.

    Raises:
        UserError: if there is none, it is damaged, or of a kind whose tokens have no exact bytes; if it needs the
            library `tokenizers` and that is not installed.
    """
    path = pathlib.Path(directory)
    files = read_files(path)
    if 'tokenizer.json' in files:
        from llm.tokenizer.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer(files, path)
    if 'tokenizer.model' in files:
        if GlassboxTokenizer.is_ours(files['tokenizer.model']):
            return GlassboxTokenizer.load(path / MODEL_FILE)
        from llm.tokenizer.sentencepiece_model import SentencePieceTokenizer

        return SentencePieceTokenizer(files, path)
    raise UserError(f'{path} has no tokenizer: neither {" nor ".join(VOCABULARIES)} is there; copy it from its source')


def open_any(path: str | os.PathLike) -> Tokenizer:
    """Opens a model file of ours, the folder of a run, or a directory that `open_directory` opens."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return GlassboxTokenizer.load(path)
    return open_workdir(path) if (path / FOLDER).is_dir() else open_directory(path)


def copy_tokenizer(source: str | os.PathLike, workdir: str | os.PathLike) -> Tokenizer:
    """Gives a run the tokenizer of a directory, its files as they are, once it is known to open.

    What the tokenizer cannot give back as it was is said in a warning.

    Args:
        source: a directory that `open_directory` opens, or another run's folder.
        workdir: the run's folder; made if there is none.

    Returns:
        The tokenizer.

    Raises:
        UserError: see `open_directory`.
    """
    found = open_any(source)
    for reason in found.losses:
        logging.warning('the tokenizer of %s %s: bits per byte of such texts come out too low', source, reason)
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    found.save_in(workdir)
    return found


def read_files(path: pathlib.Path) -> dict[str, bytes]:
    """The tokenizer's files of a directory, by name.

    Raises:
        UserError: if there is no such directory, or a file cannot be read.
    """
    if not path.is_dir():
        raise UserError(f'there is no directory {path}; give the folder with the tokenizer')
    try:
        return {name: (path / name).read_bytes() for name in FILES if (path / name).is_file()}
    except OSError as error:
        raise UserError(f'cannot read {error.filename} ({error.strerror})') from error


def write_files(files: dict[str, bytes], workdir: str | os.PathLike) -> None:
    """Writes the files into the tokenizer folder of a run, as a whole or not at all."""
    folder = pathlib.Path(workdir) / FOLDER
    temporary = folder.with_name(f'{folder.name}.{os.getpid()}.tmp')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, content in files.items():
        (temporary / name).write_bytes(content)
    if folder.is_dir():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
