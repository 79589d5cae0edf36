"""What an evaluation found: numbers with their errors, the samples behind them, and the files that keep both.

    evaluations/step_N[_ema]/                a checkpoint of the workdir
        evaluation.html                      all of its results, for people
        TASK/result.json                     one task: its numbers, and what they depend on
        TASK/samples.jsonl                   one line for each sample, in the task's order

`result.json` is written last. A task whose file has the same `depends_on` (parameters, tokenizer, chat template, data,
settings, code) is not measured again.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from llm.analysis import statistics, units
from llm.errors import MachineError
from llm.workdir import write_atomically

INTERVAL = 0.95  # confidence of every interval


@dataclass(frozen=True)
class Metric:
    """A number over samples.

    Attributes:
        name: in words that a column can have: accuracy, bits_per_byte.
        value: the number.
        samples: what it is over; None where that is not known.
        error: its standard error.
        low, high: ends of its 95% interval.
        method: of that interval.
    """

    name: str
    value: float
    samples: int | None = None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = ''


@dataclass(frozen=True)
class Result:
    """What came of one task.

    Attributes:
        task: as it was asked for.
        kind: bits_per_byte, multiple_choice, exact_match, minimal_pairs or lm_eval.
        metrics: the first one is the one to look at.
        facts: what was measured and how, for people: data, window, number of samples.
        reliability: bins of a reliability diagram, see `llm.analysis.calibration`; empty without one.
        groups: the main metric over parts of the samples, by name.
        samples: one for each sample; kept in a file of its own.
    """

    task: str
    kind: str
    metrics: tuple[Metric, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    reliability: tuple[dict[str, Any], ...] = ()
    groups: tuple[Metric, ...] = ()
    samples: tuple[dict[str, Any], ...] = ()


def rate(name: str, successes: Iterable[float]) -> Metric:
    """A share of samples, each from 0 to 1 (a tie counts half), with its standard error and Wilson's interval."""
    values = [float(value) for value in successes]
    interval = statistics.wilson_interval(sum(values), len(values), INTERVAL)
    return Metric(name, interval.mean, len(values), statistics.standard_error(values), *interval[1:], 'Wilson')


def mean(name: str, values: Iterable[float], within: tuple[float, float] = (-math.inf, math.inf)) -> Metric:
    """A mean over samples, with its standard error and Student's interval.

    Args:
        name: of the number.
        values: one for each sample.
        within: the least and the largest value that there can be; the interval is cut there.
    """
    values = [float(value) for value in values]
    value, *ends = statistics.mean_interval(values, INTERVAL)
    low, high = (end if end is None else min(max(end, within[0]), within[1]) for end in ends)
    return Metric(name, value, len(values), statistics.standard_error(values), low, high, 'Student')


def by_category(rows: Iterable[tuple[str | None, float]]) -> tuple[Metric, ...]:
    """Rates of the samples of each category, in the order in which categories come; nothing if there are none."""
    parts: dict[str, list[float]] = {}
    for category, success in rows:
        if category is not None:
            parts.setdefault(category, []).append(success)
    return tuple(rate(category, successes) for category, successes in parts.items())


def table(results: Iterable[Result]) -> str:
    """The results as lines of plain text."""
    header = ['task', 'metric', 'value', 'std. error', '95% interval', 'samples']
    rows = []
    for result in results:
        for i, metric in enumerate(result.metrics):
            rows.append([result.task if i == 0 else '', metric.name, *cells(metric)])
    return units.table(header, rows, left=2)


def cells(metric: Metric) -> list[str]:
    """Value, standard error, interval and number of samples, as text."""
    number = lambda value: '' if value is None else text(value)
    interval = '' if metric.low is None or metric.high is None else f'{number(metric.low)} to {number(metric.high)}'
    return [
        number(metric.value),
        number(metric.error),
        interval,
        '' if metric.samples is None else f'{metric.samples:,}',
    ]


def text(value: float) -> str:
    """A number for people."""
    return f'{value:,.2f}' if abs(value) >= 100 else statistics.number(value)


class Folder:
    """Where the results of one checkpoint are kept."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def find(self, task: str, depends_on: dict[str, Any]) -> Result | None:
        """The result of a task, without its samples, if it is there and depends on the same."""
        stored = _read(self._of(task) / 'result.json')
        if stored.get('depends_on') != json.loads(json.dumps(depends_on)):
            return None
        return _result(stored['result'])

    def all(self) -> list[tuple[Result, dict[str, Any], list[dict[str, Any]]]]:
        """Every result that is there, by task, with what it depends on and its samples."""
        found = []
        for path in sorted(self.path.glob('*/result.json')):
            stored = _read(path)
            if stored:
                found.append((_result(stored['result']), stored['depends_on'], _lines(path.with_name('samples.jsonl'))))
        return found

    def write(self, result: Result, depends_on: dict[str, Any]) -> pathlib.Path:
        """Keeps a result in place of an earlier one of the same task. Returns its folder.

        Raises:
            MachineError: if it cannot be written.
        """
        folder = self._of(result.task)
        stored = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        stored['metrics'] = [dataclasses.asdict(metric) for metric in result.metrics]
        stored['groups'] = [dataclasses.asdict(metric) for metric in result.groups]
        samples = stored.pop('samples')
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'result.json').unlink(missing_ok=True)  # until the samples are those of the new one
            lines = (json.dumps(sample, ensure_ascii=False, default=str) for sample in samples)
            write_atomically(folder / 'samples.jsonl', _utf8(''.join(f'{line}\n' for line in lines)))
            whole = json.dumps({'result': stored, 'depends_on': depends_on}, indent=2, ensure_ascii=False)
            write_atomically(folder / 'result.json', _utf8(whole + '\n'))
        except OSError as error:
            raise MachineError(f'cannot write {folder}: {error.strerror}') from error
        return folder

    def _of(self, task: str) -> pathlib.Path:
        return self.path / slug(task)


def slug(task: str) -> str:
    """A task's name as that of a folder; a hash keeps names apart that would become the same."""
    name = re.sub(r'[^\w.-]+', '_', task).strip('._')[-60:] or 'task'
    return name if name == task else f'{name}-{hashlib.sha256(task.encode("utf-8", "replace")).hexdigest()[:6]}'


def _result(stored: dict[str, Any]) -> Result:
    metrics, groups = (tuple(Metric(**metric) for metric in stored[name]) for name in ('metrics', 'groups'))
    return Result(**stored | {'metrics': metrics, 'groups': groups, 'reliability': tuple(stored['reliability'])})


def _read(path: pathlib.Path) -> dict[str, Any]:
    """What a result file holds; nothing if there is none, or it is damaged: then it is measured again."""
    try:
        stored = json.loads(path.read_text(encoding='utf-8'))
        _result(stored['result'])
        return stored
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding='utf-8').split('\n')  # a text may hold what else ends a line, such as U+2028
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError):
        return []


def _utf8(text: str) -> str:
    return text.encode('utf-8', 'replace').decode('utf-8')  # a sample may hold lone surrogates
