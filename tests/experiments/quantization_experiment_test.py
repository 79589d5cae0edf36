"""Rounding is measured on the same parameters: what it costs, what it saves, and that the page says so."""

import json

import pytest

from experiments.quantization import measure, plan, report
from llm.analysis import memory
from llm.config import ModelConfig
from llm.errors import UserError

MODEL = ModelConfig(vocab_size=300, context_length=64, num_layers=1, width=32, num_heads=2, compute_dtype='float32')


@pytest.mark.slow
def test_every_precision_takes_the_bytes_that_it_should():
    found = measure.sizes(MODEL, measure.random_params(MODEL))
    assert found['float32'] == 4 * memory.parameter_count(MODEL)
    assert found['int4'] < found['int8'] < found['bfloat16'] < found['float32']
    assert found['int8'] < found['float32'] / 3


def test_integer_weights_leave_what_else_is_computed_as_it_is(monkeypatch):
    monkeypatch.setattr(measure.prepared, 'ready', lambda params, model, bits=None: (model.compute_dtype, bits))
    seen = {precision: measure.in_precision(MODEL, None, precision) for precision in plan.PRECISIONS}
    assert {precision: params for precision, (_, params) in seen.items()} == {
        'float32': ('float32', None),
        'bfloat16': ('bfloat16', None),
        'int8': ('float32', 'int8'),
        'int4': ('float32', 'int4'),
    }
    assert all(model.compute_dtype == params[0] for model, params in seen.values())


def results(costs):
    times = {p: {'token': [1.0 / (i + 1)] * 5, 'prompt': [2.0 / (i + 1)] * 5} for i, p in enumerate(plan.PRECISIONS)}
    size = {p: 1000 // (i + 1) for i, p in enumerate(plan.PRECISIONS)}
    model = {'parameters': 250, 'compute_dtype': 'float32', 'bytes': size, 'times': times, 'costs': costs}
    return {'models': {'small': model, 'random': model | {'costs': [], 'parameters': 500}}, 'facts': {'rows': 1}}


def cost(difference):
    return {
        p: {'bits_per_byte': 2 + i * difference, 'difference': i * difference, 'low': None, 'high': None}
        for i, p in enumerate(plan.PRECISIONS)
    }


def test_the_page_and_the_numbers(tmp_path):
    found = results([cost(0.010), cost(0.012), cost(0.014)])
    page = report.write(tmp_path, found).read_text()
    assert json.loads((tmp_path / 'results.json').read_text()) == found
    interval = report.cost(found['models']['small'], 'int8')
    assert interval.mean == pytest.approx(0.024) and interval.low < 0.024 < interval.high
    assert report.cost(found['models']['random'], 'int8') is None
    assert report.faster(found['models']['small'], 'int8', 'token')[0] == pytest.approx(3)
    assert '+0.0240' in page and 'int4: weights take 4.0 times less memory' in page
    assert '+0.0240' in report.table(found)


def test_runs_are_paired_by_seed_and_named_by_size():
    runs = plan.runs(2)
    assert len(runs) == 2 * len(plan.SIZES)
    assert {config.model.width for config in runs.values()} == {size[0] for size in plan.SIZES.values()}
    assert {config.seed for config in runs.values()} == {0, 1}


def test_a_folder_without_results_is_refused(tmp_path):
    from experiments.quantization.__main__ import read

    with pytest.raises(UserError, match='no results yet'):
        read(tmp_path)
