"""The tensors of a folder's safetensors files, read stretch by stretch."""

import contextlib
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from llm.errors import UserError, first_line

WEIGHTS_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
DTYPES = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}


class Stored(NamedTuple):
    """A tensor in a file."""

    file: pathlib.Path
    shape: tuple[int, ...]
    dtype: str  # as the file has it, 'BF16'


class Shards(contextlib.AbstractContextManager):
    """All tensors of a model's folder.

    Attributes:
        tensors: where each is, by name.
    """

    def __init__(self, folder: pathlib.Path, ignored: Iterable[str] = ()):
        """Opens the files and reads their headers.

        Args:
            folder: of the model.
            ignored: regular expressions of names to leave out.

        Raises:
            UserError: if there are none, or one is damaged or missing.
        """
        try:
            import safetensors
        except ImportError as error:
            raise UserError("models of others need safetensors; pip install 'glassbox-llm[huggingface]'") from error
        self._open, self._damage = safetensors.safe_open, safetensors.SafetensorError
        self._stack = contextlib.ExitStack()
        self._files: dict[pathlib.Path, Any] = {}
        self.tensors: dict[str, Stored] = {}
        listed = _listed(folder)
        for path in sorted(set(listed.values())) if listed is not None else [folder / WEIGHTS_FILE]:
            self._add(path)
        for name, path in (listed or {}).items():
            if name not in self.tensors or self.tensors[name].file != path:
                raise UserError(f'{path} has no tensor {name}, which {INDEX_FILE} says it has; get the file again')
        patterns = [re.compile(pattern) for pattern in ignored]
        for name in [name for name in self.tensors if any(pattern.fullmatch(name) for pattern in patterns)]:
            del self.tensors[name]

    def _add(self, path: pathlib.Path) -> None:
        try:
            file = self._stack.enter_context(self._open(path, framework='np'))
        except FileNotFoundError as error:
            raise UserError(f'{path} is missing; get the file again') from error
        except (self._damage, OSError) as error:
            raise UserError(f'{path} is damaged or cut short ({first_line(error)}); get the file again') from error
        self._files[path] = file
        for name in file.keys():  # noqa: SIM118 (not a dictionary)
            part = file.get_slice(name)
            self.tensors[name] = Stored(path, tuple(part.get_shape()), part.get_dtype())

    def __exit__(self, *error: object) -> None:
        self._files.clear()
        self._stack.close()

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A stretch of a tensor, each slice with a start and a stop.

        Raises:
            UserError: if it cannot be read, or holds a value that is not finite.
        """
        file = self.tensors[name].file
        try:
            values = self._files[file].get_slice(name)[index]
        except (self._damage, OSError) as error:
            raise UserError(f'{file}: tensor {name} cannot be read ({first_line(error)}); get it again') from error
        if not np.isfinite(values).all():
            raise UserError(f'{file}: tensor {name} holds NaN or infinity; get the file again, or mend the weights')
        return values


def _listed(folder: pathlib.Path) -> dict[str, pathlib.Path] | None:
    """The file of each tensor as the index has it, or None where one file, which comes first, has all."""
    if (folder / WEIGHTS_FILE).is_file():
        return None
    path = folder / INDEX_FILE
    if not path.is_file():
        other = sorted(p.name for p in folder.glob('*') if p.suffix in ('.bin', '.pt', '.pth', '.h5', '.gguf'))
        hint = f'; {other[0]} is of a kind that is not read, save it as safetensors' if other else ''
        raise UserError(f'{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}{hint}')
    try:
        names = json.loads(path.read_text(encoding='utf-8'))['weight_map']
        if not all(text.isprintable() for item in names.items() for text in item):
            raise ValueError('a name with control characters')
        return {name: folder / pathlib.PurePath(file).name for name, file in names.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path} is damaged; get it again') from error
