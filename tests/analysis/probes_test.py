"""Probes reach the optimum, find what is linear, and their control task measures memory alone."""

import numpy as np
import pytest

from llm.analysis import probes

RANDOM = np.random.default_rng(0)
TOKENS, FEATURES, CLASSES = 600, 10, 4  # one shape, so that one program is compiled


def planted(classes=CLASSES, noise=0.3):
    x = RANDOM.normal(size=(TOKENS, FEATURES)) * 3 + 5
    scores = (x - 5) @ RANDOM.normal(size=(FEATURES, classes))
    return x.astype(np.float32), (scores + noise * RANDOM.normal(size=scores.shape)).argmax(axis=1)


def test_a_fit_is_the_optimum_of_what_it_says_it_minimises():
    x, y = planted(classes=3)  # one of four classes is never seen
    probe = probes.fit(x, y, CLASSES)
    z = (x.astype(np.float64) - x.mean(0)) / x.std(0)
    logits = z @ probe.weights + probe.bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    error = p / p.sum(1, keepdims=True) - np.eye(CLASSES)[y]
    gradient = z.T @ error / len(z) + probes.PENALTY * probe.weights
    assert np.abs(gradient).max() < 2e-4
    assert np.abs(error.mean(axis=0)).max() < 2e-3
    np.testing.assert_allclose(probe.logits(x), logits, rtol=1e-3, atol=1e-3)


def test_it_agrees_with_scikit_learn():
    linear_model = pytest.importorskip('sklearn.linear_model')
    x, y = planted()
    probe = probes.fit(x, y, CLASSES)
    z = (x - x.mean(0)) / x.std(0)
    theirs = linear_model.LogisticRegression(C=1 / (probes.PENALTY * len(z)), tol=1e-8, max_iter=5000).fit(z, y)
    ours = probe.weights - probe.weights.mean(axis=1, keepdims=True)  # a shift of all classes changes nothing
    np.testing.assert_allclose(ours.T, theirs.coef_ - theirs.coef_.mean(axis=0), atol=0.02)
    assert (probe.predict(x) == theirs.predict(z)).mean() > 0.995


def test_a_linear_property_is_found_and_a_product_of_signs_is_not():
    x = RANDOM.normal(size=(2 * TOKENS, FEATURES)).astype(np.float32)
    for labels, least, most in ((x[:, 0] + x[:, 1] > 0, 0.95, 1.0), (x[:, 0] * x[:, 1] > 0, 0.4, 0.6)):
        y = labels.astype(int)
        probe = probes.fit(x[:TOKENS], y[:TOKENS], CLASSES)
        assert least <= (probe.predict(x[TOKENS:]) == y[TOKENS:]).mean() <= most


def test_a_feature_that_never_changes_is_no_trouble():
    x, y = planted()
    x[:, 3] = 7
    assert np.isfinite(probes.fit(x, y, CLASSES).logits(x)).all()


def test_control_labels_belong_to_kinds_and_follow_the_spread_of_the_real_ones():
    kinds = RANDOM.integers(0, 3000, 20_000)
    labels = RANDOM.choice(3, 20_000, p=[0.7, 0.2, 0.1])
    control = probes.control_labels(kinds, labels, 3, seed=1)
    assert all(len(set(control[kinds == kind])) == 1 for kind in range(50))
    of_kinds = control[np.unique(kinds, return_index=True)[1]]
    np.testing.assert_allclose(np.bincount(of_kinds) / len(of_kinds), [0.7, 0.2, 0.1], atol=0.04)
    assert (control != probes.control_labels(kinds, labels, 3, seed=2)).any()


def test_the_control_task_can_be_learned_by_heart_for_kinds_that_were_seen_and_no_others():
    vectors = RANDOM.normal(size=(300, FEATURES))  # one activation for each kind of token, as in an embedding
    labels = probes.control_labels(np.arange(300), RANDOM.integers(0, 2, 300), 2, seed=0)
    seen = RANDOM.integers(0, FEATURES, TOKENS)  # as few kinds as a hyperplane can part in any way
    probe = probes.fit(vectors[seen], labels[seen], CLASSES)
    assert (probe.predict(vectors[seen]) == labels[seen]).all()
    others = slice(FEATURES, None)
    assert 0.35 < (probe.predict(vectors[others]) == labels[others]).mean() < 0.65


def test_by_kind_gives_the_commonest_label_of_a_kind():
    kinds, labels = np.array([1, 1, 1, 2, 2, 3]), np.array([0, 2, 2, 1, 1, 1])
    assert probes.by_kind(kinds, labels, np.array([1, 2, 3, 9])).tolist() == [2, 1, 1, 1]
