"""What is written down about code and machine identifies them."""

import pathlib
import platform
import re
import shutil
import subprocess
import sys

from llm import environment


def version_of(copy: pathlib.Path) -> str:
    """`code_version()` of a copy of the package, in a process of its own."""
    code = 'from llm.environment import code_version; print(code_version())'
    done = subprocess.run((sys.executable, '-c', code), cwd=copy, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def copy_package(to: pathlib.Path) -> pathlib.Path:
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(environment.PACKAGE, to / 'llm', ignore=ignore)
    return to


def git(folder: pathlib.Path, *arguments: str) -> str:
    who = ('-c', 'user.name=Someone', '-c', 'user.email=someone@example.org')
    return subprocess.run(
        ('git', *who, *arguments), cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_an_installed_copy_is_known_by_its_sources(tmp_path):
    copy = copy_package(tmp_path)
    first = version_of(copy)
    assert re.fullmatch('sources-[0-9a-f]{12}', first)
    assert version_of(copy) == first
    with open(copy / 'llm' / 'errors.py', 'a') as file:
        file.write('# changed\n')
    changed = version_of(copy)
    assert changed != first
    (copy / 'llm' / 'errors.py').rename(copy / 'llm' / 'mistakes.py')
    (copy / 'llm' / 'errors.py').write_text('')
    assert len({first, changed, version_of(copy)}) == 3


def test_a_checkout_is_known_by_its_commit_and_what_is_not_committed(tmp_path):
    copy = copy_package(tmp_path)
    (copy / '.gitignore').write_text('__pycache__/\n')
    for arguments in (('init', '-q'), ('add', '.'), ('commit', '-qm', 'all')):
        git(copy, *arguments)
    commit = git(copy, 'rev-parse', '--short=12', 'HEAD')
    assert version_of(copy) == commit
    (copy / 'notes.txt').write_text('outside the package')
    assert version_of(copy) == commit
    (copy / 'llm' / 'new.py').write_text('x = 1\n')
    first = version_of(copy)
    assert re.fullmatch(f'{commit}\\+[0-9a-f]{{12}}', first)
    (copy / 'llm' / 'new.py').write_text('x = 2\n')
    assert version_of(copy) not in (commit, first)


def test_the_environment_names_versions_and_hardware():
    import jax

    found = environment.environment()
    assert found['python'] == platform.python_version()
    assert found['jax'] == jax.__version__
    assert found['devices'] == jax.device_count() == 8
    assert found['cores'] >= 1
    assert found.keys() >= {'flax', 'optax', 'orbax', 'device', 'cpu', 'system'}
    assert all(found.values())
