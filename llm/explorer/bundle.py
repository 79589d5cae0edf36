"""The page as one file: its styles and scripts put in, and with them the answers it would ask a server for.

The page is written so that this takes no build tool: its modules import names from one another by relative paths
(`import { a, b } from './x.js';`, from the first column), export declarations where they make them, have no cycles and
no name twice. So the modules, in the order of their imports and without the words `import` and `export`, are one.
"""

import json
import pathlib
import posixpath
import re
from typing import Any

from llm.explorer.arrays import dumps

PAGE = pathlib.Path(__file__).parent / 'page'

_IMPORT = re.compile(r"^import \{[^}]*\} from '(\.[^']+)';\n?", re.MULTILINE)
_EXPORT = re.compile(r'^export (?=(?:async )?function|const|class)', re.MULTILINE)
_DECLARED = re.compile(r'^(?:(?:async )?function\*?|const|let|class) (\w+)', re.MULTILINE)
_STYLE = re.compile(r'<link rel="stylesheet" href="([^"]+)">')
_SCRIPT = re.compile(r'<script type="module" src="([^"]+)"></script>')

# No browser lets such a page load or send anything.
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:\">"
)


def script(page: pathlib.Path, main: str = 'main.js') -> str:
    """All modules of the page as one.

    Raises:
        ValueError: if a module is not written as above.
    """
    done: list[str] = []
    sources: dict[str, str] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f'the imports of {name} lead back to it')
        if name in done:
            return
        source = (page / name).read_text(encoding='utf-8')
        for target in _IMPORT.findall(source):
            visit(posixpath.normpath(posixpath.join(posixpath.dirname(name), target)), (*above, name))
        sources[name] = _EXPORT.sub('', _IMPORT.sub('', source))
        if left := re.search(r'^(import|export)\b.*', sources[name], re.MULTILINE):
            raise ValueError(f'{name} cannot be joined with the others: {left[0]}')
        done.append(name)

    visit(main, ())
    names = [name for source in sources.values() for name in _DECLARED.findall(source)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f'two modules of the page declare {", ".join(sorted(twice))}')
    return '\n'.join(f'// {name}\n{sources[name]}' for name in done)


def whole(page: pathlib.Path, data: dict[str, Any]) -> str:
    """The page with its data in one text of HTML that asks for nothing else.

    Args:
        page: folder with index.html.
        data: what `window.GLASSBOX_DATA` is to hold.
    """
    html = (page / 'index.html').read_text(encoding='utf-8')
    html = _STYLE.sub(lambda found: f'<style>\n{(page / found[1]).read_text(encoding="utf-8")}</style>', html)
    # `<` of the data is escaped, so nothing in it ends the script or begins a comment that hides the end.
    carried = f'<script>window.GLASSBOX_DATA = {dumps(data).replace("<", chr(92) + "u003c")};</script>\n'
    joined = lambda found: carried + f'<script type="module">\n{_inline(script(page, found[1]))}\n</script>'
    html = _SCRIPT.sub(joined, html)
    return html.replace('<head>\n', f'<head>\n{POLICY}\n', 1)


def _inline(source: str) -> str:
    """A script as it may stand in HTML; both turned marks mean the same in JavaScript's strings."""
    return source.replace('</script', '<\\/script').replace('<!--', '<\\!--')


def key(method: str, path: str, fields: dict[str, Any]) -> str:
    """The name under which the page looks for an answer."""
    if method == 'POST':
        return f'POST {path} {json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)}'
    pairs = '&'.join(f'{name}={fields[name]}' for name in sorted(fields))
    return f'GET {path}?{pairs}' if pairs else f'GET {path}'
