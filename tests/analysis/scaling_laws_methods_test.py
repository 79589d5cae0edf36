"""The other ways to scaling laws, the tables they are fitted to, the warnings, and the report."""

import json
import re

import numpy as np
import pytest

from llm.analysis.scaling_laws import page, runs
from llm.analysis.scaling_laws.analysis import analyse, as_json, leave_out_largest, predict
from llm.analysis.scaling_laws.envelope import Curve, envelope
from llm.analysis.scaling_laws.frontier import FLOPS
from llm.analysis.scaling_laws.isoflop import groups, isoflop
from llm.analysis.scaling_laws.parametric import Law, fit
from llm.analysis.scaling_laws.power_law import power_law
from llm.analysis.scaling_laws.repeated import HALF_LIFE, effective_tokens
from llm.analysis.scaling_laws.runs import Runs, read_csv
from llm.errors import UserError

LAW = Law(*map(np.float64, (1.2, 60.0, 0.40, 60.0, 0.40)))  # N* = D* = sqrt(C / 6)
TEN = lambda n: FLOPS * n


def profiles(budgets: int = 5, sizes: int = 5, spread: float = 1.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    c = np.repeat(2.5e11 * 2.0 ** np.arange(budgets), sizes)
    n = np.sqrt(c / 6) * np.tile(np.exp(np.linspace(-spread, spread, sizes)), budgets)
    return n, c / 6 / n, c


def table(deviation: float = 0.003, **more) -> Runs:
    n, d, _ = profiles()
    return Runs.of(n, d, LAW.loss(n, d) * np.exp(np.random.default_rng(0).normal(0, deviation, len(n))), **more)


def test_isoflop_finds_the_exponents_and_sizes_of_a_symmetric_law():
    n, d, c = profiles(spread=0.7)
    found = isoflop(n, LAW.loss(n, d), c, TEN, resamples=50)
    assert found.a.value == pytest.approx(0.5, abs=0.005) and found.b.value == pytest.approx(0.5, abs=0.005)
    for profile in found.profiles:
        assert profile.best.value == pytest.approx(np.sqrt(profile.budget / 6), rel=0.01)
        assert profile.loss.value == pytest.approx(float(profile.losses(np.array([profile.best.value]))[0]))


def test_isoflop_intervals_hold_the_truth_about_as_often_as_they_say():
    n, d, c = profiles()
    random, held = np.random.default_rng(0), []
    for i in range(200):
        loss = LAW.loss(n, d) * np.exp(random.normal(0, 0.004, len(n)))
        found = isoflop(n, loss, c, TEN, 300, seed=i)
        held.append([found.a.holds(0.5), *(one.best.holds(np.sqrt(one.budget / 6)) for one in found.profiles)])
    share = np.mean(held, 0)
    assert np.all((share >= 0.9) & (share < 1))  # 0.95 within three binomial errors


def test_profiles_that_show_no_lowest_point_are_left_out_and_said():
    n, d, c = profiles()
    loss = LAW.loss(n, d)
    loss[:5] = [3.0, 2.6, 2.3, 2.1, 2.0]  # falls to its largest size
    loss[5:10] = [2.0, 2.5, 2.6, 2.5, 2.0]  # opens downwards
    found = isoflop(n, loss, c, TEN, resamples=50)
    assert 'above' in found.profiles[0].problem and 'downwards' in found.profiles[1].problem
    assert not any(one.problem for one in found.profiles[2:])
    without = isoflop(n[10:], loss[10:], c[10:], TEN, resamples=50)
    assert found.a.value == pytest.approx(without.a.value)
    said = analyse(Runs.of(n, d, loss), resamples=20).warnings
    assert sum('is left out of the power laws' in warning for warning in said) == 2


def test_budgets_that_differ_by_rounding_are_one_profile():
    assert [part.tolist() for part in groups(np.array([2.0, 1.0, 1.05, 2.1, 4.0]))] == [[1, 2], [0, 3], [4]]
    spread = np.geomspace(1e18, 1e21, 120)  # each is near the one before, and the last far from the first
    assert all(spread[part].max() / spread[part].min() < 1.3 for part in groups(spread))
    assert isoflop(np.ones(4), np.ones(4), np.ones(4), TEN) is None


def test_the_envelope_of_curves_of_known_shape():
    """Curves that follow the law itself, of many sizes: the envelope's best size grows as the law's does."""
    tokens = np.geomspace(1e4, 1e7, 120)
    curves = [Curve(n, 6 * n * tokens, tokens, LAW.loss(n, tokens)) for n in np.geomspace(2e4, 2e6, 25)]
    found = envelope(curves, resamples=20)
    assert found.a.value == pytest.approx(0.5, abs=0.04) and found.b.value == pytest.approx(0.5, abs=0.04)
    assert found.n == pytest.approx(np.sqrt(found.budgets / 6), rel=0.25)
    assert envelope(curves[:1]) is None
    assert envelope(curves[:2] * 2) is None  # two sizes: either is the smallest or the largest


def test_a_power_law_comes_back_and_goes_through_the_unbeaten_runs_alone():
    x = np.array([1e3, 1e4, 1e4, 1e5, 1e6])
    loss = (1e9 / x) ** 0.1
    loss[2] *= 1.2  # a worse run of the same size
    found = power_law(x, loss, resamples=50)
    assert found.exponent.value == pytest.approx(0.1) and found.scale.value == pytest.approx(1e9)
    assert len(found.x) == 4 and found(np.array([1e8])) == pytest.approx([10**0.1])
    assert power_law(x[:2], loss[:2]) is None
    bent = power_law(x, loss + 1, resamples=50)  # an irreducible loss makes a straight line wrong beyond its end
    assert bent(np.array([1e16]))[0] < 1 < 1 + (1e9 / 1e16) ** 0.1


def test_repeated_tokens_are_worth_less_each_time():
    worth = lambda seen: float(effective_tokens(np.array([seen]), np.array([100.0]))[0])
    assert worth(50) == 50 and worth(100) == 100
    assert 190 < worth(200) < 200 and 350 < worth(400) < 400  # four epochs are nearly as good as fresh data
    assert worth(1e9) == pytest.approx(100 * (1 + HALF_LIFE))


def test_repeated_data_is_warned_of_and_fitted_at_its_worth_too():
    n, d, _ = profiles(6)
    unique = np.full(len(n), 3e5)
    loss = LAW.loss(n, effective_tokens(d, unique))
    found = analyse(Runs.of(n, d, loss, unique=unique), resamples=20)
    (warning,) = (one for one in found.warnings if 'more than once' in one)
    assert '300,000 unique' in warning
    assert float(found.effective.law.beta) == pytest.approx(0.4, rel=1e-3)
    assert abs(float(found.fit.law.beta) - 0.4) > 0.01  # taken for fresh, they bend the law
    assert analyse(table(), resamples=20).effective is None


def test_runs_that_were_not_decayed_are_warned_of():
    bad = np.where(np.arange(25) < 5, 0.6, 0.0)
    (warning,) = (one for one in runs.warnings(table(decayed=bad)) if 'learning rate' in one)
    assert warning.startswith('5 of 25 runs') and '60%' in warning
    assert not any('learning rate' in one for one in runs.warnings(table(decayed=np.full(25, 0.1))))


def test_single_seeds_few_runs_and_narrow_ranges_are_warned_of():
    said = ' '.join(runs.warnings(table()))
    assert 'one seed' in said and 'few' not in said
    n, d, _ = profiles(2, 3, 0.3)
    twice = np.tile(n, 2), np.tile(d, 2)
    said = ' '.join(runs.warnings(Runs.of(*twice, LAW.loss(*twice))))
    assert 'one seed' not in said and '12 runs are few' in said and 'N spans a factor' in said and 'D spans' in said


def test_a_law_that_the_runs_do_not_determine_is_warned_of():
    n, d, _ = profiles(3, 4, 0.5)
    loss = LAW.loss(n, d) * np.exp(np.random.default_rng(1).normal(0, 0.05, len(n)))
    said = ' '.join(analyse(Runs.of(n, d, loss), resamples=100).warnings)
    assert 'E is hardly determined' in said or 'do not determine' in said


def test_the_largest_runs_are_left_out_as_whole_profiles_and_their_error_is_told():
    whole = table()
    left = leave_out_largest(whole, resamples=200)
    assert set(left.runs.names) == {f'run {i}' for i in range(21, 26)}
    again = fit(whole.n[:20], whole.d[:20], whole.loss[:20], resamples=0).law
    assert left.errors == pytest.approx(again.loss(whole.n[20:], whole.d[20:]) / whole.loss[20:] - 1)
    assert np.abs(left.errors).max() < 0.03 and left.inside >= 3
    n, d, _ = profiles(2, 4)
    assert leave_out_largest(Runs.of(n, d, LAW.loss(n, d))) is None  # four are left


def test_a_law_that_does_not_hold_beyond_its_runs_is_caught_by_leaving_them_out():
    whole = table(0.001)
    loss = np.where(whole.largest(), whole.loss * 1.1, whole.loss)  # something else happens there
    left = leave_out_largest(Runs.of(whole.n, whole.d, loss), resamples=200)
    assert np.abs(left.errors).mean() > 0.05 and left.inside == 0


def test_predictions_beyond_the_runs_say_so():
    found = analyse(table(), resamples=50)
    inside = predict(found, 'x', float(np.median(found.runs.n)), float(np.median(found.runs.d)), 1e12)
    assert inside.beyond == ''
    far = predict(found, 'x', 1e7, 1e8, 6e15)
    assert re.fullmatch(r'extrapolated: N is \S+ times the largest fitted, D is .*, C is 1.5e\+03 times .*', far.beyond)
    assert far.loss.low < far.loss.value < far.loss.high
    assert far.by_power_law < far.loss.value


def write(path, text: str):
    path.write_text(text, encoding='utf-8')
    return path


def test_a_csv_with_tokens_or_with_flops_is_the_same_table(tmp_path):
    by_tokens = read_csv(write(tmp_path / 'd.csv', 'N, D, loss\n1e5,2e6,3.5\n2e5,1e6,3.4\n'))
    by_flops = read_csv(write(tmp_path / 'c.csv', '\ufeffname,loss,C,N\na,3.5,1.2e12,1e5\nb,3.4,1.2e12,2e5\n'))
    assert by_tokens.d == pytest.approx([2e6, 1e6]) and by_flops.d == pytest.approx(by_tokens.d)
    assert by_flops.flops == pytest.approx(by_tokens.flops) and by_flops.names == ('a', 'b')
    assert by_tokens.cost(by_tokens.n) is None
    counted = read_csv(write(tmp_path / 'e.csv', 'N,N_without_embeddings,D,C,loss,unique\n100,60,10,9000,3,5\n'))
    assert list(counted.counts) == ['with embeddings', 'without embeddings']
    assert counted.cost(counted.n)(np.array([100.0])) == pytest.approx([900.0]) and counted.unique[0] == 5


@pytest.mark.parametrize(
    'text, said',
    [
        ('', 'has no rows'),
        ('N,loss\n1,2\n', 'has the columns N, loss; it needs'),
        ('N,D,loss\n1,2,3\n1,x,3\n', "line 3: D is 'x'"),
        ('N,D,loss\n1,2\n', 'line 2: loss is None'),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        read_csv(write(tmp_path / 'x.csv', text))
    with pytest.raises(UserError, match='cannot read'):
        read_csv(tmp_path / 'none.csv')


def test_the_report_has_every_number_and_a_prediction_with_its_error(tmp_path):
    n, d, _ = profiles()
    whole = table(0.005, counts={'with embeddings': n, 'without embeddings': 0.8 * n}, measured=True)
    found = analyse(whole, resamples=60)
    prediction = predict(found, 'larger', 1e6, 1e6, 6e12)
    prediction = type(prediction)(**{**vars(prediction), 'measured': float(LAW.loss(1e6, 1e6))})
    html = page.write(tmp_path, found, prediction, {'seconds': 3}).read_text()
    markdown = (tmp_path / 'report.md').read_text()
    results = json.loads((tmp_path / 'results.json').read_text())
    for text in (html, markdown):
        for one in found.fit.estimates().values():
            assert str(one) in text
        for name in whole.names:
            assert name in text
        assert f'{prediction.error:+.2%}' in text.replace('&#43;', '+') and 'extrapolated' in text
        assert all(warning[:40] in text for warning in found.warnings)
    assert html.count('<figure>') == 6 and '<script' not in html and '{{' not in html
    assert results['prediction']['error'] == pytest.approx(prediction.error)
    assert results['fits']['without embeddings']['alpha'][0] == pytest.approx(
        results['fits']['with embeddings']['alpha'][0]
    )
    assert results['leave_out_largest']['runs'] == [f'run {i}' for i in range(21, 26)]
    assert len(as_json(found)['isoflop']['profiles']) == 5
