"""A config file is Python: `configs/NAME.py` defines `get_config() -> Config`."""

import importlib.util
import pathlib

from llm.config import Config
from llm.errors import UserError, first_line


def load_config(file: str) -> Config:
    """Runs a Python config file and returns what its `get_config()` does.

    Raises:
        UserError: if it cannot be read or run, or returns something else.
    """
    path = pathlib.Path(file)
    if not path.is_file():
        raise UserError(f'there is no config file {file}; look in configs/')
    spec = importlib.util.spec_from_file_location('glassbox_config', path)
    if spec is None or spec.loader is None:
        raise UserError(f'{file} is not a Python file (NAME.py with get_config())')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except (Exception, SystemExit) as error:
        raise UserError(f'{file}: {first_line(error) or type(error).__name__}') from error
    if not isinstance(config, Config):
        raise UserError(f'{file}: get_config() returns a {type(config).__name__}; it must return a Config')
    return config
