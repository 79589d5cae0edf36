"""Instructions made from the functions of the installed standard library.

A function is taken with its signature on one line and its body as it stands in the file, without decorators and without
its docstring, whose first paragraph is what the function is said to do. Methods count; classes, lambdas, `async`
functions and functions around other functions do not. The same function occurs in several files: it is kept once, and
on the side of training if it occurs there at all, so no held-out answer can be copied from a training row.
"""

import ast
import functools
import inspect
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm.data import python_stdlib
from llm.data.split import is_held_out

LONGEST = 600  # characters of a function together with what it is said to do: about 200 tokens
_INDENT = '    '


@dataclass(frozen=True)
class Function:
    """One function of the library.

    Attributes:
        file: where it is defined, a POSIX path relative to the library.
        signature: `name(arguments)`, on one line.
        code: its source from `def` on.
        description: the first paragraph of its docstring on one line, or ''.
    """

    file: str
    signature: str
    code: str
    description: str


def functions() -> Iterator[dict[str, Any]]:
    """The task `python_functions`."""
    for function in library():
        yield _row(function, write_prompt(function.signature, function.description), function.code)


def docstrings() -> Iterator[dict[str, Any]]:
    """The task `python_docstrings`."""
    for function in library():
        if function.description:
            yield _row(function, describe_prompt(function.code), function.description)


def bodies() -> Iterator[dict[str, Any]]:
    """The task `python_bodies`."""
    for function in library():
        head, body = function.code.split('\n', 1)
        docstring = f'{_INDENT}"""{function.description}"""\n' if function.description else ''
        yield {'identity': function.file, 'prompt': f'{head}\n{docstring}', 'completion': body + '\n'}


def write_prompt(signature: str, description: str) -> str:
    """What a user says who wants a function."""
    return f'Write a Python function `{signature}`' + (f': {description}' if description else '.')


def describe_prompt(code: str) -> str:
    """What a user says who wants to know what a function does."""
    return f'What does this Python function do?\n\n{code}'


def _row(function, prompt, completion):
    return {
        'identity': function.file,
        'prompt': [{'role': 'user', 'content': prompt}],
        'completion': [{'role': 'assistant', 'content': completion}],
    }


@functools.cache
def library() -> tuple[Function, ...]:
    """Every function, in the order of files and lines: what training reads first, then what is held out."""
    root = python_stdlib.source_folder()
    files = [(path.relative_to(root).as_posix(), path) for path in python_stdlib.source_files()]
    files.sort(key=lambda file: (is_held_out(file[0]), file[0]))
    found: dict[str, Function] = {}  # by code: the first one is kept
    for identity, path in files:
        for function in functions_of(path.read_bytes(), identity):
            found.setdefault(function.code, function)
    return tuple(found.values())


def functions_of(source: bytes, file: str) -> Iterator[Function]:
    """The functions of one file, in the order of its lines; none where it is not Python of this version."""
    try:
        with warnings.catch_warnings():  # of odd escapes in the library
            warnings.simplefilter('ignore')
            text = source.decode('utf-8')
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    lines = text.splitlines(keepends=True)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        signature = f'{node.name}({ast.unparse(node.args)})'
        code = _code(node, signature, lines)
        description = _first_paragraph(ast.get_docstring(node))
        if code is not None and len(code) + len(description) <= LONGEST:
            yield Function(file, signature, code, description)


def _code(node: ast.FunctionDef, signature: str, lines: list[str]) -> str | None:
    """The function's source, or None if it is too long, has no body or cannot be moved to the left margin."""
    documented = ast.get_docstring(node, clean=False) is not None
    body = node.body[1:] if documented else node.body
    if not body:
        return None
    after = node.body[0].end_lineno if documented else None  # comments behind the docstring belong to the body
    start = after if after is not None else body[0].lineno - 1
    returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
    text = textwrap.dedent(''.join(lines[start : node.end_lineno]))
    code = f'def {signature}{returns}:\n' + textwrap.indent(text, _INDENT).strip('\n').rstrip()
    if len(code) > LONGEST:
        return None
    if any(isinstance(inner, ast.FunctionDef | ast.ClassDef) for part in body for inner in ast.walk(part)):
        return None
    try:
        (moved,) = ast.parse(code).body
    except (SyntaxError, ValueError):  # the body began on the line of the `def`
        return None
    # Strings over several lines would have changed.
    same = [ast.dump(part) for part in moved.body] == [ast.dump(part) for part in body]
    return code if same else None


def _first_paragraph(docstring: str | None) -> str:
    return ' '.join(inspect.cleandoc(docstring or '').split('\n\n')[0].split())
