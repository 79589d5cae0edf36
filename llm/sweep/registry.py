"""A sweep on disk: a folder of workdirs, and what is read off them.

    sweep.json          the runs that were asked for last, by name, and the folder of each
    runs/NAME.KEY/      a workdir each; KEY is made of the run's config and the code that trains it
    claims/             a lock for each run, held by the process that trains it
    logs/               what those processes said
    failures.jsonl      each time that one of them failed: when, which run, exit code, last lines
    table.csv, table.parquet, sweep.html    `rows` for programs and for people, written at the end of each launch

Nothing about a run is stored outside its workdir, so the registry cannot disagree with it. The same config under the
same code is the same run: it is not run again. Under other code it is another run, in a folder of its own.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from llm import config_json
from llm.analysis import units
from llm.config import Config
from llm.environment import sources_hash
from llm.errors import MachineError, UserError
from llm.workdir import Workdir, write_atomically

_TAIL = 1 << 14  # bytes at the end of metrics.jsonl that are looked at first


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    name: str
    workdir: Workdir

    @property
    def key(self) -> str:
        return self.workdir.path.name


def create(folder: str | os.PathLike, configs: Mapping[str, Config]) -> list[Run]:
    """Makes the sweep's folder, or opens it to ask for these runs: those that are there already stay as they are.

    Args:
        folder: of the sweep.
        configs: by the runs' names.

    Raises:
        UserError: if the folder cannot be made.
    """
    folder = pathlib.Path(folder)
    runs = []
    try:
        for name, config in configs.items():
            workdir = Workdir(folder / 'runs' / folder_name(name, config))
            workdir.path.mkdir(parents=True, exist_ok=True)
            if not (workdir.path / 'config.json').is_file():
                workdir.write_config(config)
            runs.append(Run(name, workdir))
        plan = {'schema_version': 1, 'runs': {run.name: run.key for run in runs}}
        write_atomically(folder / 'sweep.json', json.dumps(plan, indent=1) + '\n')
    except OSError as error:
        raise UserError(f'cannot make a sweep in {folder}: {error.strerror}; choose another folder') from error
    return runs


def open_sweep(folder: str | os.PathLike) -> list[Run]:
    """The runs that were asked for last.

    Raises:
        UserError: if the folder holds no sweep.
    """
    path = pathlib.Path(folder) / 'sweep.json'
    try:
        names = json.loads(path.read_text(encoding='utf-8'))['runs']
        return [Run(name, Workdir(path.parent / 'runs' / key)) for name, key in names.items()]
    except FileNotFoundError as error:
        raise UserError(f'{folder} holds no sweep; make one with `python -m llm sweep --out {folder}`') from error
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f'{path} is damaged ({error}); start the sweep again, what is done stays') from error


def folder_name(name: str, config: Config) -> str:
    """A run's name, as far as a file name can have it, and what makes it unique: its config and the code."""
    digest = hashlib.sha256(f'{config_json.config_hash(config)} {sources_hash()}'.encode()).hexdigest()
    return f'{re.sub("[^A-Za-z0-9_.,=+-]+", "_", name)[:80]}.{digest[:8]}'


class Busy(MachineError):
    """Another process trains one of these runs."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


@contextlib.contextmanager
def claimed(workdirs: Sequence[Workdir], timeout: float = 0) -> Iterator[None]:
    """Holds the claims on runs.

    Args:
        workdirs: all of them, or none.
        timeout: seconds to wait for each: who only looks whether a run is claimed holds its claim for a moment.

    Raises:
        Busy: if another process has one of them.
    """
    with contextlib.ExitStack() as held:
        for workdir in workdirs:
            claims = workdir.path.parents[1] / 'claims'
            claims.mkdir(exist_ok=True)
            try:
                held.enter_context(FileLock(claims / f'{workdir.path.name}.lock', timeout=timeout))
            except Timeout as error:
                raise Busy(f'another process is training {workdir.path}') from error
        yield


def is_claimed(workdir: Workdir) -> bool:
    """Whether some process trains the run now."""
    try:
        with claimed([workdir]):
            return False
    except Busy:
        return True


def status(workdir: Workdir) -> str:
    """planned, running, interrupted (also: killed), failed or done."""
    if workdir.finished(workdir.config()):
        return 'done'
    if is_claimed(workdir):
        return 'running'
    said = workdir.summary().get('status')
    return {None: 'planned', 'running': 'interrupted', 'done': 'interrupted'}.get(said, said)


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run: how it stands, the fields in which configs differ, what it cost, and what came of it.

    Columns that start with `held_out.` are the objective's own measures at the end; None where there is none (yet).
    """
    configs = [config_json.flatten(run.workdir.config()) for run in runs]
    varied = [
        name
        for name in dict.fromkeys(name for config in configs for name in config)
        if name != 'name' and len({json.dumps(config.get(name)) for config in configs}) > 1
    ]
    failed = failures(runs)
    table = [
        _row(run, {name: config.get(name) for name in varied}, failed.get(run.key, []))
        for run, config in zip(runs, configs, strict=True)
    ]
    columns = dict.fromkeys(name for row in table for name in row)
    return [{name: row.get(name) for name in columns} for row in table]


def _row(run: Run, varied: dict[str, Any], failed: list[dict[str, Any]]) -> dict[str, Any]:
    summary, last = run.workdir.summary(), last_row(run.workdir)
    config = run.workdir.config()
    measured = {
        f'held_out.{name}': value
        for name, value in summary.get('held_out', {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {
        'name': run.name,
        'status': status(run.workdir),
        'step': summary.get('step') if summary.get('status') == 'done' else last.get('step', summary.get('step')),
        'steps': config.training.steps,
        **varied,
        'parameters': summary.get('parameters'),
        'tokens': last.get('tokens'),
        'flops': last.get('flops'),
        'train_loss': last.get('loss'),
        **measured,
        'seconds': last.get('seconds'),
        'tokens_per_second': summary.get('tokens_per_second') or last.get('tokens_per_second'),
        'failures': len(failed),
        'message': failed[-1]['message'] if failed and summary.get('status') != 'done' else summary.get('message'),
        'params_sha256': summary.get('params_sha256'),
        'config_hash': config_json.config_hash(config),
        'code_version': summary.get('code_version'),
        'workdir': str(run.workdir.path),
    }


def last_row(workdir: Workdir) -> dict[str, Any]:
    """The last training row of metrics.jsonl, read from its end; empty if there is none."""
    tail = _TAIL
    while True:
        try:
            with open(workdir.metrics_file, 'rb') as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail))
                lines = file.read().splitlines()
        except OSError:
            return {}
        for line in reversed(lines):
            with contextlib.suppress(ValueError):  # torn at either end
                row = json.loads(line)
                if isinstance(row, dict) and row.get('kind') == 'train':
                    return row
        if tail >= size:
            return {}
        tail *= 8


def note_failure(run: Run, code: int, message: str, time: float, log: Sequence[str]) -> None:
    """Writes down that a run failed.

    Args:
        run: which.
        code: its process's exit code, negative for a signal.
        message: in one line.
        time: in seconds since 1970.
        log: the last lines of what it said.
    """
    line = json.dumps({'time': time, 'run': run.key, 'code': code, 'message': message, 'log': list(log)})
    with open(run.workdir.path.parents[1] / 'failures.jsonl', 'a', encoding='utf-8') as file:
        file.write(line + '\n')


def failures(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """What `note_failure` wrote, by the run's key, oldest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in dict.fromkeys(run.workdir.path.parents[1] for run in runs):
        with contextlib.suppress(OSError), open(folder / 'failures.jsonl', encoding='utf-8') as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    found.setdefault(row['run'], []).append(row)
    return found


# Of a table's columns, those for machines.
QUIET = (
    'message',
    'params_sha256',
    'config_hash',
    'code_version',
    'workdir',
    'steps',
    'flops',
    'failures',
    *(f'held_out.{name}' for name in ('tokens', 'bytes', 'documents')),
)


def text(table: Sequence[Mapping[str, Any]]) -> str:
    """`rows` for a terminal, without the columns that are empty or for machines."""
    columns = [name for name in table[0] if name not in QUIET and any(row[name] is not None for row in table)]
    return units.table(columns, [[_cell(row[name]) for name in columns] for row in table], left=2)


def _cell(value: Any) -> str:
    if value is None:
        return ''
    return f'{value:,}' if isinstance(value, int) else f'{value:.5g}' if isinstance(value, float) else str(value)


def export(table: Sequence[Mapping[str, Any]], folder: str | os.PathLike) -> list[pathlib.Path]:
    """Writes `rows` as table.csv and table.parquet. Lists are written as JSON. Returns the files."""
    import pyarrow
    import pyarrow.parquet

    folder = pathlib.Path(folder)
    flat = [{name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()} for row in table]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]) if flat else ['name'])
    writer.writeheader()
    writer.writerows(flat)
    write_atomically(folder / 'table.csv', text.getvalue())
    columns = {name: _column([row[name] for row in flat]) for name in (flat[0] if flat else ())}
    temporary = folder / f'table.parquet.{os.getpid()}.tmp'
    pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
    os.replace(temporary, folder / 'table.parquet')
    return [folder / 'table.csv', folder / 'table.parquet']


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: numbers, or if they are mixed text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
