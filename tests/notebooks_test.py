"""The notebooks: each runs from clean, top to bottom, and is committed without what it computed."""

import os
import pathlib
import re
import sys

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from xla_flags import xla_flags

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / 'notebooks'
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))
QUICK = ('1_the_journey_of_a_sentence.ipynb',)
ONE_CELL = 300  # seconds, on a machine that does other things too
STRIP = 'python -m jupyter nbconvert --clear-output --inplace notebooks/*.ipynb'


def execute(book: nbformat.NotebookNode, scratch: pathlib.Path, cwd: pathlib.Path = FOLDER) -> None:
    """Runs all cells in a fresh kernel of this interpreter, whatever kernels are installed, with files in `scratch`.

    Raises:
        AssertionError: with the cell and its error.
    """
    environment = {name: value for name, value in os.environ.items() if name != 'NPROC'} | {'XLA_FLAGS': xla_flags(1)}
    environment |= {'TMPDIR': str(scratch), 'IPYTHONDIR': str(scratch / 'ipython'), 'PYTHONPATH': str(ROOT)}
    manager = AsyncKernelManager(
        kernel_name='python3',
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # leaves ipykernel's own, which is this interpreter's
        connection_file=str(scratch / 'kernel.json'),
    )
    assert pathlib.Path(manager.kernel_spec.argv[0]) == pathlib.Path(sys.executable)
    client = NotebookClient(book, km=manager, timeout=ONE_CELL, resources={'metadata': {'path': str(cwd)}})
    try:
        client.execute(env=environment, cleanup_kc=True)
    except CellExecutionError as error:
        failed = next(i for i, cell in enumerate(book.cells) if any(o.output_type == 'error' for o in outputs(cell)))
        traceback = re.sub(r'\x1b\[[0-9;]*m', '', error.traceback)
        raise AssertionError(f'cell {failed}: {error.ename}: {error.evalue}\n{traceback}') from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise AssertionError(str(error)) from None


def outputs(cell):
    return cell.get('outputs', [])


def read(path):
    return nbformat.read(path, as_version=4)


def test_the_notebooks_that_the_readme_names_are_there():
    assert [path.name for path in NOTEBOOKS] == re.findall(r'\]\((\d\w+\.ipynb)\)', (FOLDER / 'README.md').read_text())
    assert set(QUICK) < {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_valid_and_holds_no_results(path):
    book = read(path)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == 'code']
    kept = [i for i, cell in enumerate(code) if cell.outputs or cell.execution_count is not None]
    assert not kept, f'code cells {kept} hold what they computed; strip it with `{STRIP}`'
    assert book.metadata.kernelspec.name == 'python3'
    assert '\n' in path.read_text() and str(ROOT) not in path.read_text()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_is_for(path):
    title, purpose = read(path).cells[0].source.split('\n\n')[:2]
    assert re.fullmatch(r'# \S.*', title)
    assert '\n' not in purpose and 20 < len(purpose) < 160


@pytest.mark.parametrize(
    'path', [pytest.param(p, id=p.stem, marks=[] if p.name in QUICK else pytest.mark.slow) for p in NOTEBOOKS]
)
def test_a_notebook_runs_from_clean_and_leaves_nothing_behind(path, tmp_path):
    before = sorted(ROOT.glob('*')) + sorted(FOLDER.rglob('*'))
    book = read(path)
    execute(book, tmp_path)
    shown = [o for cell in book.cells for o in outputs(cell)]
    assert sum('image/png' in o.get('data', {}) for o in shown) >= 2, 'it draws hardly anything'
    assert sorted(ROOT.glob('*')) + sorted(FOLDER.rglob('*')) == before


def test_a_cell_that_fails_is_named_with_its_error(tmp_path):
    cells = [nbformat.v4.new_markdown_cell('# Title'), *map(nbformat.v4.new_code_cell, ('zero = 0', '1 / zero'))]
    with pytest.raises(AssertionError, match='cell 2: ZeroDivisionError: division by zero'):
        execute(nbformat.v4.new_notebook(cells=cells), tmp_path, cwd=tmp_path)
