"""Self-contained HTML pages from the templates beside this file: no script, no font, no link leaves the page."""

import json
import pathlib
from typing import Any

import jinja2

from llm.errors import MachineError
from llm.workdir import write_atomically

TEMPLATES = pathlib.Path(__file__).parent / 'templates'


def _environment(*folders: pathlib.Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(
    template: str, path: pathlib.Path, context: dict[str, Any], folder: pathlib.Path | None = None
) -> pathlib.Path:
    """Renders a template to a file, whole or not at all. Every value is escaped unless it is `markupsafe.Markup`.

    Args:
        template: its name.
        path: of the page.
        context: the template's variables.
        folder: where the template is, if not beside this file; it may still extend those that are.

    Raises:
        MachineError: if the file cannot be written.
    """
    html = _environment(*([folder] if folder else []), TEMPLATES).get_template(template).render(context)
    try:
        write_atomically(path, html.encode('utf-8', 'replace').decode('utf-8'))  # a prompt may hold lone surrogates
    except OSError as error:
        raise MachineError(f'cannot write {path}: {error.strerror}') from error
    return path


def write_results(out: pathlib.Path, results: dict[str, Any]) -> None:
    """Writes the numbers behind a page as `results.json` into a folder, made if there is none.

    Raises:
        MachineError: if they cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / 'results.json', json.dumps(results, indent=1) + '\n')
    except OSError as error:
        raise MachineError(f'cannot write into {out}: {error.strerror}') from error


def facts(nested: dict[str, Any], prefix: str = '') -> list[tuple[str, str]]:
    """Flattens nested values into (label, text) rows for a table of facts; empty and None values are left out."""
    rows = []
    for key, value in nested.items():
        label = f'{prefix}{str(key).replace("_", " ")}'
        if isinstance(value, dict):
            rows += facts(value, f'{label} · ')
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value, start=1):
                rows += facts(item, f'{label} {number} · ')
        elif value is not None and value not in ('', []):
            rows.append((label, _text(value)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, (list, tuple)):
        return ', '.join(map(_text, value))
    if isinstance(value, int):
        return f'{value:,}'
    return f'{value:.6g}' if isinstance(value, float) else str(value)
