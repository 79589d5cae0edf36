"""The page of a suite, from results made up here."""

import dataclasses
import importlib.util
import pathlib

import pytest
from benchmark.result_test import ENVIRONMENT, STEP, UNKNOWN

from llm.benchmark import report
from llm.benchmark.result import Case, Result, derive

SUITE = pathlib.Path(report.__file__).parents[2] / 'experiments' / 'benchmarks' / 'suite.py'


@pytest.fixture
def results():
    def made(kind, *cases):
        return Result(kind, {}, ENVIRONMENT, UNKNOWN, tuple(derive(case, UNKNOWN) for case in cases))

    product = dataclasses.replace(
        STEP, kind='matmul', name='8x8', flops={'matmul': 1e9}, bytes={'minimum': 1e7}, tokens=0
    )
    steps = [
        dataclasses.replace(
            STEP,
            name=f'width {width}',
            shape={'width': width, 'layers': 1, 'length': 8, 'batch': 2},
            seconds=tuple(s * width for s in STEP.seconds),
        )
        for width in (64, 128)
    ]
    full = Case(kind='train', name='width 4096', shape={}, unavailable='out of memory: <all of it>')
    return {'matmul': made('matmul', product), 'train-width': made('train', *steps, full)}


def test_the_page_has_the_roof_and_the_curves_and_loads_nothing(results, tmp_path):
    page = report.write_report(results, tmp_path / 'report.html').read_text()
    for title in (
        'Roofline, bfloat16',
        'Cost against width',
        'Training steps: width',
        'not in the table of data sheets',
    ):
        assert title in page
    assert 'Cost against layers' not in page  # was not measured
    assert 'out of memory: &lt;all of it&gt;' in page
    for loads in ('<script', 'src="http', '<link', '@import', 'url(http'):
        assert loads not in page


def test_every_series_takes_its_colour_from_the_page(results):
    (plot,) = report.rooflines(results)
    assert 'var(--series-1)' in plot
    assert '#0a0b' not in plot


def test_the_suite_asks_along_every_axis_and_quick_asks_less():
    spec = importlib.util.spec_from_file_location('suite', SUITE)
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    for plan in (suite.CPU, suite.ACCELERATOR):
        full = suite.questions(plan, quick=False, devices=8)
        assert next(iter(full)) == 'matmul'  # the limits come first
        assert {f'train-{axis}' for axis in report.AXES} <= full.keys()
        assert full['train-devices'][1].devices == (1, 2, 4, 8)
        assert 'train-devices' not in suite.questions(plan, quick=False, devices=1)
        quick = suite.questions(plan, quick=True, devices=1)
        assert quick['train-width'][1].width == (plan['axes']['width'][0], plan['axes']['width'][-1])
        assert quick['train-width'][1].repeats < full['train-width'][1].repeats
