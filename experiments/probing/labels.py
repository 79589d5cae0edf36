"""What there is to know about a place in Python source, taken from `tokenize` and `ast`.

Every task gives each byte of a text a label, or -1 where it has none. A model's token is labelled by its last byte:
what the model has read by then is what a probe may find.

    region     code, string, docstring or comment
    brackets   how many are open: 0, 1, 2, 3 or more
    block      how deep the statement is indented: 0, 1, 2, 3 or more levels
    next       what kind of Python token comes next, where one of code has just ended
    name       where a name that a function reads comes from: its arguments, its own assignments, or elsewhere
               (self and cls are left out)
"""

import ast
import io
import itertools
import keyword
import re
import tokenize
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

NONE = -1  # no label
MOST = 3  # brackets and levels are counted up to here

TASKS: dict[str, tuple[str, ...]] = {
    'region': ('code', 'string', 'docstring', 'comment'),
    'brackets': ('0', '1', '2', '3 or more'),
    'block': ('0', '1', '2', '3 or more'),
    'next': ('keyword', 'name', 'operator', 'number', 'string', 'comment', 'line end'),
    'name': ('argument', 'own', 'elsewhere'),
}
MEANING = {
    'region': 'whether a place is code, a string, a docstring or a comment',
    'brackets': 'how many brackets are open',
    'block': 'how deep the statement is indented',
    'next': 'what kind of Python token comes next',
    'name': "whether a name is an argument, the function's own, or from elsewhere",
}

_LAYOUT = {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}
_STRINGS = {getattr(tokenize, name) for name in dir(tokenize) if name == 'STRING' or name.startswith('FSTRING_')}


class Source(NamedTuple):
    """A labelled text.

    Attributes:
        data: its UTF-8 bytes.
        labels: by task, one for each byte.
        starts: bytes where a statement begins that is in no block: from there on, nothing before has to be known.
    """

    data: bytes
    labels: dict[str, Int[np.ndarray, 'bytes']]
    starts: list[int]


def label(text: str) -> Source:
    """Labels every byte of a Python source file.

    Raises:
        SyntaxError, ValueError: if it is not Python of this interpreter's version.
    """
    if re.search('\r(?!\n)', text):
        raise ValueError('a line ends in a way that ast and tokenize count differently')
    try:
        tree = ast.parse(text)
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from error
    places = _Places(io.StringIO(text).readlines())
    size = len(text.encode())
    labels = {task: np.full(size, NONE, np.int64) for task in TASKS}
    starts = _layout(tokens, places, labels)
    _next_kinds(tokens, places, labels['next'])
    _name_origins(tree, places, labels['name'])
    return Source(text.encode(), labels, starts)


class _Places:
    """From rows and columns to bytes."""

    def __init__(self, lines: list[str]):
        self._lines = lines
        self._starts = np.cumsum([0, *(len(line.encode()) for line in lines)])

    def row(self, row: int) -> int:
        """The first byte of a row, counted from 1."""
        return int(self._starts[min(row - 1, len(self._lines))])

    def of(self, place: tuple[int, int]) -> int:
        """The byte at a row and a column in characters."""
        row, column = place
        inside = self._lines[row - 1][:column] if row <= len(self._lines) else ''
        return self.row(row) + len(inside.encode())


def _layout(tokens, places, labels) -> list[int]:
    """Region, brackets and block; returns where top-level statements begin."""
    region, brackets, block = (labels[task] for task in ('region', 'brackets', 'block'))
    region[:] = 0
    depth = level = changed = 0
    begun = None  # the first byte of the line on which the current statement begins
    starts = []
    previous = None  # the last token that is not a comment or an empty line
    for i, token in enumerate(tokens):
        kind, string = token.type, token.string
        start, end = places.of(token.start), places.of(token.end)
        if kind == tokenize.INDENT:
            level += 1
        elif kind == tokenize.DEDENT:
            level -= 1
        elif kind == tokenize.COMMENT:
            region[start:end] = 3
        elif kind not in _LAYOUT and kind not in (tokenize.NL, tokenize.NEWLINE) and begun is None:
            begun = places.row(token.start[0])
            if level == 0 and string not in ('elif', 'else', 'except', 'finally'):
                starts.append(begun)
        if kind in _STRINGS:
            alone = previous in (None, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
            region[start:end] = 2 if alone and tokens[i + 1].type == tokenize.NEWLINE else 1
        if kind == tokenize.OP and string in '()[]{}':
            brackets[changed:start] = min(depth, MOST)
            depth, changed = depth + (1 if string in '([{' else -1), start
        if kind == tokenize.NEWLINE and begun is not None:
            block[begun:end] = min(level, MOST)
            begun = None
        if kind not in (tokenize.COMMENT, tokenize.NL):
            previous = kind
    brackets[changed:] = 0
    return starts


def _next_kinds(tokens, places, labels) -> None:
    """The kind of the next token, at the last byte of each token and at the spaces between."""
    tokens = [token for token in tokens if token.type not in _LAYOUT]
    for this, following in itertools.pairwise(tokens):
        if this.type in _STRINGS or this.type == tokenize.COMMENT:
            continue
        if this.type in (tokenize.NEWLINE, tokenize.NL):
            continue  # what comes after a line's end begins with its indentation
        kind = _kind(following)
        if kind != NONE:
            labels[places.of(this.end) - 1 : places.of(following.start)] = kind


def _kind(token) -> int:
    names = TASKS['next']
    if token.type == tokenize.NAME:
        return names.index('keyword' if keyword.iskeyword(token.string) else 'name')
    if token.type in _STRINGS:
        return names.index('string')
    simple = {
        tokenize.OP: 'operator',
        tokenize.NUMBER: 'number',
        tokenize.COMMENT: 'comment',
        tokenize.NEWLINE: 'line end',
        tokenize.NL: 'line end',
    }
    return names.index(simple[token.type]) if token.type in simple else NONE


def _name_origins(tree, places, labels) -> None:
    """Marks the last byte of each name that is read in a function."""
    scopes: list[tuple[set[str], set[str]]] = []  # arguments and assigned names, outermost first

    def visit(node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            a = node.args
            arguments = {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None}
            body = node.body if isinstance(node.body, list) else [node.body]
            for outside in (*getattr(node, 'decorator_list', ()), *a.defaults, *(d for d in a.kw_defaults if d)):
                visit(outside)
            scopes.append((arguments, {n for part in body for n in _assigned(part)}))
            for part in body:
                visit(part)
            scopes.pop()
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and scopes and node.id not in ('self', 'cls'):
            # ast counts columns in bytes, as we do.
            labels[places.row(node.end_lineno) + node.end_col_offset - 1] = _origin(node.id, scopes)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)


def _origin(name, scopes) -> int:
    for arguments, own in reversed(scopes):
        if name in arguments:
            return 0
        if name in own:
            return 1
    return 2


def _assigned(node) -> set[str]:
    """Names that a statement binds, without those inside of functions and classes that it defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    found = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    if isinstance(node, ast.ExceptHandler) and node.name:
        found.add(node.name)
    if isinstance(node, ast.Import | ast.ImportFrom):
        found |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
    if isinstance(node, ast.Lambda):
        return found
    for child in ast.iter_child_nodes(node):
        found |= _assigned(child)
    return found
