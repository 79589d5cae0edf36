"""The files of a model's tokenizer, on their way back out of a workdir."""

import pathlib

from llm.tokenizer.files import FILES, FOLDER
from llm.workdir import Workdir


def export_tokenizer(workdir: Workdir, target: pathlib.Path) -> None:
    """Copies an imported tokenizer's files as they came; the model's config.json is not among them."""
    for name in FILES:
        if name != 'config.json' and (workdir.path / FOLDER / name).is_file():
            (target / name).write_bytes((workdir.path / FOLDER / name).read_bytes())
