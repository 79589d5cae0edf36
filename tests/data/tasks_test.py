"""The embedded tasks: what a row says, and that none gives away a held-out answer."""

import ast

import pytest

from llm.data import python_stdlib, task_checks, tasks_python
from llm.data.split import is_held_out
from llm.data.tasks import TASKS

PYTHON = [name for name in TASKS if name.startswith('python_')]


@pytest.fixture(scope='module')
def rows():
    """Every task's rows, made from some of the library's files, held-out ones among them."""
    everything = python_stdlib.source_files()
    names = {path: path.relative_to(python_stdlib.source_folder()).as_posix() for path in everything}
    held_out = [path for path in everything if is_held_out(names[path])]
    chosen = sorted({*held_out[:8], *everything[::40]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_stdlib, 'source_files', lambda: chosen)
        tasks_python.library.cache_clear()
        yield {name: list(TASKS[name]()) for name in PYTHON}
        tasks_python.library.cache_clear()


def split(rows):
    held_out = [row for row in rows if is_held_out(row['identity'])]
    train = [row for row in rows if not is_held_out(row['identity'])]
    assert min(len(train), len(held_out)) > 20
    return train, held_out


def text(row, part):
    (message,) = row[part]
    assert message['role'] == {'prompt': 'user', 'completion': 'assistant'}[part]
    return message['content']


def functions(source):
    return list(tasks_python.functions_of(source.encode(), 'a.py'))


def test_a_row_comes_from_a_file_of_the_embedded_corpus(rows):
    files = {path.relative_to(python_stdlib.source_folder()).as_posix() for path in python_stdlib.source_files()}
    for task in PYTHON:
        assert {row['identity'] for row in rows[task]} <= files


@pytest.mark.parametrize('task', ['python_functions', 'python_docstrings'])
def test_no_code_is_on_both_sides(rows, task):
    part = 'completion' if task == 'python_functions' else 'prompt'
    train, held_out = ({text(row, part) for row in side} for side in split(rows[task]))
    assert not train & held_out


def test_the_librarys_own_answers_pass_the_checks(rows):
    prompts = [text(row, 'prompt') for row in rows['python_functions']]
    answers = [text(row, 'completion') for row in rows['python_functions']]
    assert set(task_checks.parses(prompts, answers)) == {1.0}
    assert set(task_checks.as_asked(prompts, answers)) == {1.0}


def test_a_function_loses_decorators_docstring_and_indentation_only():
    (function,) = functions('''
class A:
    @property
    def middle(self, at: int = 1,
               *rest) -> "int":
        """The middle
        of it.

        And more.
        """
        # why
        if at:  # and when
            return {'a':
                        1}

        return 2  # last
''')
    assert function.signature == 'middle(self, at: int=1, *rest)'
    assert function.description == 'The middle of it.'
    assert function.code == (
        "def middle(self, at: int=1, *rest) -> 'int':\n"
        '    # why\n'
        '    if at:  # and when\n'
        "        return {'a':\n"
        '                    1}\n'
        '\n'
        '    return 2  # last'
    )
    assert function.file == 'a.py'


def test_what_cannot_be_taken_out_is_left_out():
    cases = {
        'a body that is only a docstring': 'def f():\n    "does"\n',
        'a function around a function': 'def f():\n    def g():\n        pass\n    return g\n',
        'one line': 'def f(): return 1\n',
        'a string that moving would change': 'class A:\n    def f():\n        return """a\n        b"""\n',
        'an asynchronous one': 'async def f():\n    return 1\n',
        'not Python': 'def f(:\n    return 1\n',
        'too long': f'def f():\n    return "{"a" * tasks_python.LONGEST}"\n',
    }
    found = {name: [function.signature for function in functions(source)] for name, source in cases.items()}
    assert found.pop('a function around a function') == ['g()']
    assert set(map(tuple, found.values())) == {()}
    assert functions('def f(a):\n    return a\n')[0].code == 'def f(a):\n    return a'


def test_the_same_function_is_taken_once_and_for_training(tmp_path, monkeypatch):
    assert is_held_out('a1.py') and not is_held_out('z.py')
    for name in ('a1.py', 'z.py'):
        (tmp_path / name).write_text('def f(a):\n    return a\n')
    (tmp_path / 'a1.py').write_text('def f(a):\n    return a\n\ndef g(a):\n    return a\n')
    monkeypatch.setattr(python_stdlib, 'source_folder', lambda: tmp_path)
    monkeypatch.setattr(python_stdlib, 'source_files', lambda: sorted(tmp_path.glob('*.py')))
    tasks_python.library.cache_clear()
    try:
        assert [(f.file, f.signature) for f in tasks_python.library()] == [('z.py', 'f(a)'), ('a1.py', 'g(a)')]
    finally:
        tasks_python.library.cache_clear()


def test_bodies_are_the_functions_as_plain_text(rows):
    for plain, row in zip(rows['python_bodies'], rows['python_functions'], strict=True):
        start, end = plain['prompt'], plain['completion']
        node = ast.parse(start + end).body[0]
        described = text(row, 'prompt').partition('`: ')[2]
        assert (ast.get_docstring(node) or '') == described or '\\' in described or '"""' in described
        assert start.split('\n')[0] + '\n' + end.rstrip('\n') == text(row, 'completion')
        assert plain['identity'] == row['identity']


def test_docstring_rows_ask_about_code_that_does_not_hold_the_answer(rows):
    for row in rows['python_docstrings']:
        code = text(row, 'prompt').partition('\n\n')[2]
        assert ast.get_docstring(ast.parse(code).body[0]) is None
        assert text(row, 'completion')
