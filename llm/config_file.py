"""A config file is Python: `configs/NAME.py` defines `get_config() -> Config`.

One that asks a question also defines `get_space()`, the changes that are compared; see `llm.sweep.space`. The folder of
a run may stand for a config file: its config is the one that the run was started with.
"""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

from llm.config import Config
from llm.errors import UserError, first_line


def load_config(file: str) -> Config:
    """Runs a Python config file and returns what its `get_config()` does, or reads the config of a run's folder.

    Raises:
        UserError: if it cannot be read or run, or returns something else.
    """
    if pathlib.Path(file).is_dir():
        from llm.workdir import Workdir

        return Workdir.open(file).config()
    config = _call(file, 'get_config')
    if not isinstance(config, Config):
        raise UserError(f'{file}: get_config() returns a {type(config).__name__}; it must return a Config')
    return config


def load_space(file: str) -> Any:
    """What `get_space()` of a config file returns, a `llm.sweep.space.Space`; the base alone if it has none.

    Raises:
        UserError: as for `load_config`.
    """
    from llm.sweep.space import BASE, Point

    if pathlib.Path(file).is_dir():
        return BASE
    points = _call(file, 'get_space', default=lambda: BASE)
    if not isinstance(points, tuple) or not all(isinstance(point, Point) for point in points):
        raise UserError(f'{file}: get_space() returns a {type(points).__name__}; it must return a Space')
    return points


def load_value(file: str, name: str) -> Any:
    """What a Python file calls `name`.

    Raises:
        UserError: if it cannot be read or run, or has no such name.
    """
    return _run(file, lambda module: getattr(module, name))


def _call(file: str, name: str, default: Any = None) -> Any:
    return _run(file, lambda module: (getattr(module, name, default) if default else getattr(module, name))())


def _run(file: str, read: Callable[[Any], Any]) -> Any:
    path = pathlib.Path(file)
    if not path.is_file():
        raise UserError(f'there is no config file {file}; look in configs/')
    spec = importlib.util.spec_from_file_location('glassbox_config', path)
    if spec is None or spec.loader is None:
        raise UserError(f'{file} is not a Python file (NAME.py with get_config())')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return read(module)
    except (Exception, SystemExit) as error:
        raise UserError(f'{file}: {first_line(error) or type(error).__name__}') from error
