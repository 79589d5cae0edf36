"""Probes reach the optimum, find what is linear, and their control task measures memory alone."""

import numpy as np
import pytest

from llm.analysis import probes

RANDOM = np.random.default_rng(0)


def planted(tokens=600, features=10, classes=3, noise=0.3):
    x = RANDOM.normal(size=(tokens, features)) * 3 + 5
    scores = (x - 5) @ RANDOM.normal(size=(features, classes))
    return x.astype(np.float32), (scores + noise * RANDOM.normal(size=scores.shape)).argmax(axis=1)


def test_a_fit_is_the_optimum_of_what_it_says_it_minimises():
    x, y = planted()
    probe = probes.fit(x, y, 4)  # a class that is never seen, too
    z = (x.astype(np.float64) - x.mean(0)) / x.std(0)
    logits = z @ probe.weights + probe.bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    error = p / p.sum(1, keepdims=True) - np.eye(4)[y]
    gradient = z.T @ error / len(z) + probes.PENALTY * probe.weights
    assert np.abs(gradient).max() < 2e-4
    assert np.abs(error[:, :3].mean(axis=0)).max() < 2e-3
    np.testing.assert_allclose(probe.logits(x), logits, rtol=1e-3, atol=1e-3)


def test_it_agrees_with_scikit_learn():
    linear_model = pytest.importorskip('sklearn.linear_model')
    x, y = planted()
    probe = probes.fit(x, y, 3)
    z = (x - x.mean(0)) / x.std(0)
    theirs = linear_model.LogisticRegression(C=1 / (probes.PENALTY * len(z)), tol=1e-8, max_iter=5000).fit(z, y)
    ours = probe.weights - probe.weights.mean(axis=1, keepdims=True)  # a shift of all classes changes nothing
    np.testing.assert_allclose(ours.T, theirs.coef_ - theirs.coef_.mean(axis=0), atol=0.02)
    assert (probe.predict(x) == theirs.predict(z)).mean() > 0.995


def test_a_linear_property_is_found_and_a_product_of_signs_is_not():
    x = RANDOM.normal(size=(2000, 8)).astype(np.float32)
    for labels, least, most in ((x[:, 0] + x[:, 1] > 0, 0.97, 1.0), (x[:, 0] * x[:, 1] > 0, 0.4, 0.6)):
        y = labels.astype(int)
        reached = (probes.fit(x[:1000], y[:1000], 2).predict(x[1000:]) == y[1000:]).mean()
        assert least <= reached <= most


def test_a_feature_that_never_changes_is_no_trouble():
    x, y = planted()
    x = np.concatenate([x, np.full((len(x), 1), 7, np.float32)], axis=1)
    assert np.isfinite(probes.fit(x, y, 3).logits(x)).all()


def test_control_labels_belong_to_kinds_and_follow_the_spread_of_the_real_ones():
    kinds = RANDOM.integers(0, 3000, 20_000)
    labels = RANDOM.choice(3, 20_000, p=[0.7, 0.2, 0.1])
    control = probes.control_labels(kinds, labels, 3, seed=1)
    assert all(len(set(control[kinds == kind])) == 1 for kind in range(50))
    of_kinds = control[np.unique(kinds, return_index=True)[1]]
    np.testing.assert_allclose(np.bincount(of_kinds) / len(of_kinds), [0.7, 0.2, 0.1], atol=0.04)
    assert (control != probes.control_labels(kinds, labels, 3, seed=2)).any()


def test_the_control_task_can_be_learned_by_heart_for_kinds_that_were_seen_and_no_others():
    vectors = RANDOM.normal(size=(60, 40))  # one activation for each kind of token, as in an embedding
    kinds = RANDOM.integers(0, 60, 3000)
    labels = probes.control_labels(kinds, RANDOM.integers(0, 2, 3000), 2, seed=0)
    seen = kinds < 40
    probe = probes.fit(vectors[kinds[seen]], labels[seen], 2)
    assert (probe.predict(vectors[kinds[seen]]) == labels[seen]).mean() > 0.9
    others = np.unique(kinds[~seen], return_index=True)[1]
    assert (probe.predict(vectors[kinds[~seen][others]]) == labels[~seen][others]).mean() < 0.9


def test_by_kind_gives_the_commonest_label_of_a_kind():
    kinds, labels = np.array([1, 1, 1, 2, 2, 3]), np.array([0, 2, 2, 1, 1, 1])
    assert probes.by_kind(kinds, labels, np.array([1, 2, 3, 9])).tolist() == [2, 1, 1, 1]
