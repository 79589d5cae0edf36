"""From the plan to the error of the prediction. What is done already is not done again."""

import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import Any

from experiments.scaling_laws import held_out
from experiments.scaling_laws.plan import Plan, configs
from llm.analysis import units
from llm.analysis.scaling_laws import page
from llm.analysis.scaling_laws.analysis import Analysis, Prediction, analyse
from llm.analysis.scaling_laws.runs import read_csv
from llm.errors import MachineError
from llm.sweep import forecast as forecasts
from llm.sweep import registry, scaling
from llm.sweep.experiment import run_sweep
from llm.sweep.options import SweepOptions

SPEED = 45e9  # FLOP/s that models of this size reach on two cores of a Xeon, to say how long it will take
AROUND = 10  # seconds of a run that are not training: starting, compiling, evaluating, saving


def run(out: pathlib.Path, plan: Plan, resamples: int, options: SweepOptions) -> None:
    """Everything.

    Raises:
        MachineError, Interrupted: if runs failed, or a signal came.
    """
    folder(out)
    with Clock(out / 'times.jsonl'):
        analysis = analyse(scaling.table(run_sweep(out / 'sweep', configs(plan), options)), resamples)
        larger = held_out.choose(plan, analysis)
        prediction = held_out.predicted(larger, analysis)
        print(f'predicted for {prediction.name}: {prediction.loss}', file=sys.stderr)
        prediction = held_out.measured(out, larger, prediction, options)
    finish(out, analysis, prediction, {'plan': dataclasses.asdict(plan)})


def report(out: pathlib.Path, resamples: int) -> None:
    """The report again, from the runs that are there."""
    analysis = analyse(scaling.table(registry.open_sweep(out / 'sweep')), resamples)
    larger = registry.open_sweep(out / 'held_out') if (out / 'held_out' / 'sweep.json').is_file() else []
    prediction = None
    for one in larger:
        prediction = held_out.predicted(one.workdir.config(), analysis)
        if registry.status(one.workdir) == 'done':
            prediction = dataclasses.replace(prediction, measured=float(scaling.table([one]).loss[0]))
    finish(out, analysis, prediction, {})


def fit_given(out: pathlib.Path, csv: pathlib.Path | None, sweep: pathlib.Path | None, resamples: int) -> None:
    """The report of runs that somebody else made: a table, or the folder of a sweep."""
    table = read_csv(csv) if csv else scaling.table(registry.open_sweep(sweep))
    folder(out)
    finish(out, analyse(table, resamples), None, {})


def finish(out: pathlib.Path, analysis: Analysis, prediction: Prediction | None, facts: dict[str, Any]) -> None:
    """Writes the report and says what is in it."""
    if times := Clock(out / 'times.jsonl').all():
        facts |= {'seconds of fitting and training': times}
    path = page.write(out, analysis, prediction, facts)
    for warning in analysis.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    print(*page.sentences(analysis, prediction), path, sep='\n')


def forecast(plan: Plan) -> str:
    """The plan as a table, with the held-out run's budget, FLOPs and time."""
    runs = configs(plan)
    predicted = forecasts.forecasts(runs, SPEED)
    last = plan.beyond * max(plan.budgets)
    total = sum(one.seconds for one in predicted) + last / SPEED + AROUND * (len(runs) + 1)
    return (
        f'{forecasts.text(predicted)}\nthen a held-out run of {units.flops(last)}, its size chosen by the fit; '
        f'about {units.duration(total)} in all at {SPEED / 1e9:g} GFLOP/s (two cores)'
    )


def folder(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f'cannot make {path}: {error.strerror}') from error


class Clock:
    """Seconds, of the wall and of processors (children's too), of every start of the command."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __enter__(self) -> 'Clock':
        self._wall, self._processor = time.monotonic(), sum(os.times()[:4])
        return self

    def __exit__(self, *exception) -> None:
        spent = {'wall': time.monotonic() - self._wall, 'processor': sum(os.times()[:4]) - self._processor}
        with open(self._path, 'a', encoding='utf-8') as file:
            file.write(json.dumps(spent) + '\n')

    def all(self) -> dict[str, float]:
        """The sums; empty if there was no start."""
        if not self._path.is_file():
            return {}
        rows = [json.loads(line) for line in self._path.read_text(encoding='utf-8').splitlines()]
        return {name: round(sum(row[name] for row in rows), 1) for name in ('wall', 'processor')}
