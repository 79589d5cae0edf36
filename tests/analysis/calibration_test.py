"""Expected calibration error, against numbers worked out by hand."""

import numpy as np
import pytest

from llm.analysis.calibration import Reliability


def test_error_by_hand():
    reliability = Reliability(bins=2)
    reliability.add(np.array([0.2, 0.4, 0.9, 0.7]), np.array([True, False, True, False]))
    # Lower half: right 1/2, confident 0.3. Upper: right 1/2, confident 0.8.
    assert reliability.error == pytest.approx(0.5 * 0.2 + 0.5 * 0.3)
    assert reliability.accuracy == 0.5 and reliability.confidence == pytest.approx(0.55)
    assert reliability.rows() == [
        {'low': 0.0, 'high': 0.5, 'count': 2, 'confidence': pytest.approx(0.3), 'accuracy': 0.5},
        {'low': 0.5, 'high': 1.0, 'count': 2, 'confidence': pytest.approx(0.8), 'accuracy': 0.5},
    ]


def test_predictions_may_come_in_parts():
    draw = np.random.default_rng(0)
    confidence, right = draw.random(1000), draw.random(1000) < 0.3
    whole, parts = Reliability(), Reliability()
    whole.add(confidence, right)
    for part in np.array_split(np.arange(1000), 7):
        parts.add(confidence[part], right[part])
    assert parts.error == pytest.approx(whole.error) and parts.total == 1000


def test_who_is_right_as_often_as_sure_has_no_error():
    draw = np.random.default_rng(1)
    confidence = draw.random(200_000)
    honest, boaster = Reliability(), Reliability()
    honest.add(confidence, draw.random(200_000) < confidence)
    boaster.add(np.sqrt(confidence), draw.random(200_000) < confidence)
    assert honest.error < 0.005
    assert boaster.error == pytest.approx(2 / 3 - 1 / 2, abs=0.005)  # mean of sqrt(x) less mean of x


def test_certainty_falls_in_the_last_bin_and_a_bin_has_its_lower_end():
    reliability = Reliability(bins=4)
    reliability.add(np.array([1.0, 1.0000001, 0.75, 0.25, 0.0]), np.ones(5, bool))
    assert reliability.counts.tolist() == [1, 1, 0, 3]


def test_nothing_has_no_error():
    with pytest.raises(ValueError, match='no predictions'):
        _ = Reliability().error
