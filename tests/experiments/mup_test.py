"""The μP experiment: which runs it asks for, what it reads off them, and that it runs from end to end."""

import math

import numpy as np
import pytest

from experiments.mup import __main__ as program
from experiments.mup import plan as plans
from experiments.mup import report
from experiments.mup.findings import Curve, curves, finding
from llm import runtime
from llm.errors import UserError

PLAN = plans.Plan(widths=(32, 64, 128), rates=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0))


def test_every_width_meets_every_rate_in_both_parametrisations_and_the_base_width_once():
    configs = plans.runs(plans.Plan(seeds=2)).values()
    seen = [(c.model.width, c.model.parametrization, c.optimizer.learning_rate, c.seed) for c in configs]
    assert len(set(seen)) == len(seen) == 7 * 6 * 2
    assert {c.model.base_width for c in configs if c.model.parametrization == 'mup'} == {32}
    assert {c.model.width for c in configs if c.model.parametrization == 'mup'} == {64, 128, 256}
    assert len({c.data.seed for c in configs}) == 2


def row(width, parametrization, rate, loss, status='done'):
    return {
        'model.width': width,
        'model.parametrization': parametrization,
        'optimizer.learning_rate': rate,
        'held_out.loss': loss,
        'status': status,
    }


def table() -> list[dict]:
    """Parabolas in the rate's logarithm: lowest at 1/4 in μP, elsewhere in the standard one."""
    rows = []
    for width, best in ((32, -2.0), (64, -2.75), (128, -3.25)):
        for rate in PLAN.rates:
            rows.append(row(width, 'standard', rate, 3 + 0.1 * (math.log2(rate) - best) ** 2))
            if width > 32:
                rows.append(row(width, 'mup', rate, 3 - 0.01 * width + 0.1 * (math.log2(rate) + 2) ** 2))
    return [*rows, row(128, 'mup', 2.0, None, status='failed')]


def test_optima_of_parabolas_are_found_between_the_rates():
    standard = finding(PLAN, table(), 'standard')
    np.testing.assert_allclose([np.log2(curve.optimum) for curve in standard.curves], [-2, -2.75, -3.25], atol=1e-9)
    assert standard.slope == pytest.approx(-0.625)
    assert standard.carried == pytest.approx(0.1 * 1.25**2 - 0.1 * 0.25**2)  # of those tried
    assert 'slope of −0.62' in standard.sentence()


def test_a_rate_that_stays_costs_nothing():
    mup = finding(PLAN, table(), 'mup')
    assert [curve.width for curve in mup.curves] == [32, 64, 128]
    assert mup.slope == pytest.approx(0, abs=1e-9)
    assert mup.carried == 0


def test_seeds_are_averaged_failed_runs_and_widths_that_are_not_done_left_out():
    rows = [row(32, 'standard', 0.5, 3.0), row(32, 'standard', 0.5, 4.0), row(32, 'standard', 1.0, None, 'failed')]
    rows += [row(64, 'mup', 0.5, 3.0), row(64, 'mup', 1.0, None, 'running')]
    assert curves(PLAN, rows, 'mup') == (Curve(32, (0.5,), (3.5,)),)


def test_a_best_rate_at_the_edge_is_said_to_be():
    at_edge = [row(width, 'standard', rate, rate) for width in (32, 64) for rate in (0.25, 0.5, 1.0)]
    found = finding(PLAN, at_edge, 'standard')
    assert not found.curves[0].inside
    assert found.curves[0].optimum == 0.25
    assert 'edge' in found.sentence()


def test_no_seed_is_refused():
    with pytest.raises(UserError, match='--seeds is 0'):
        program.main(['--seeds', '0'])


@pytest.mark.slow
def test_from_nothing_to_a_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runtime, 'prepare_host', lambda: None)
    monkeypatch.setattr(report, 'CHECK_WIDTHS', (16, 32))
    program.main(['--quick', '--no-progress', '--out', str(tmp_path)])
    said = capsys.readouterr().out
    assert 'μP: the best learning rate goes from' in said
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<figure>') == 5
    assert '9 of 9 runs done' in page
