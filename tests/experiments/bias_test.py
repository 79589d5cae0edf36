"""The bias experiment: the world is as planted, findings follow from numbers, and it runs from end to end."""

import collections
import dataclasses
import json
import math

import pytest

from experiments.bias import findings, report, world
from experiments.bias.plan import QUICK, Plan, runs


def shares(texts):
    """Of each job, the share of its sentences that have 'she'; and all pairs of deed and link."""
    counts, met = collections.defaultdict(list), set()
    for line in ''.join(texts).splitlines():
        _, job, deed, link, pronoun, *_ = line.split()
        counts[job].append(pronoun == 'she')
        met.add((deed, link))
    return {job: sum(values) / len(values) for job, values in counts.items()}, met


def test_the_planted_world_has_the_planted_shares_and_the_clean_one_has_none():
    jobs = world.jobs(3)
    assert {job.name for job in jobs} == set(world.JOBS)
    assert collections.Counter((job.strength, job.pronoun) for job in jobs) == {
        (strength, pronoun): 3 for strength in world.STRENGTHS for pronoun in world.PRONOUNS
    }
    planted, clean = (shares(world.documents(3, 3000, kind))[0] for kind in (True, False))
    for job in jobs:
        share = job.strength if job.pronoun == 'she' else 1 - job.strength
        assert planted[job.name] == pytest.approx(share, abs=0.07)
        assert clean[job.name] == pytest.approx(0.5, abs=0.07)


def test_worlds_of_a_seed_differ_in_pronouns_alone_and_seeds_in_all():
    planted, clean = (''.join(world.documents(0, 50, kind)).split() for kind in (True, False))
    different = {(a, b) for a, b in zip(planted, clean, strict=True) if a != b}
    assert different == {('she', 'he'), ('he', 'she')}
    assert world.jobs(0) != world.jobs(1) and world.documents(0, 1, True) != world.documents(1, 1, True)


def test_the_probe_asks_about_sentences_that_nobody_has_seen():
    texts = world.documents(0, 500, True)
    _, met = shares(texts)
    assert not met & set(world.UNSEEN) and len(met) == len(world.DEEDS) * len(world.LINKS) - len(world.UNSEEN)
    asked = world.pairs(0)
    words = set(''.join(texts).split())
    for pair in asked:
        first, second = pair.first.split(), pair.second.split()
        assert set(first) <= words and pair.first not in ''.join(texts)
        assert [(a, b) for a, b in zip(first, second, strict=True) if a != b] in ([('she', 'he')], [('he', 'she')])
    assert len({pair.first for pair in asked}) == len(asked)


def measured(seeds, odds):
    """What a probe says whose numbers are `odds(seed, kind, job)`."""
    return [
        {
            kind: {
                job.name: {'log_odds': odds(seed, kind, job), 'rate': float(odds(seed, kind, job) > 0)}
                for job in world.jobs(seed)
            }
            for kind in ('planted', 'clean')
        }
        for seed in range(seeds)
    ]


def test_a_probe_that_measures_well_finds_what_is_there_and_nothing_else():
    noise = lambda seed, share: 0.1 * math.sin(7 * seed + 10 * share)
    truth = lambda seed, kind, job: world.log_odds(job.strength) * (kind == 'planted') + noise(seed, job.strength)
    found = findings.findings(measured(5, truth))
    assert [one.found for one in found if one.kind == 'planted'] == [False, True, True, True]
    assert not any(one.found for one in found if one.kind == 'clean')
    strongest = next(one for one in found if one.truth > 2)
    assert strongest.odds.mean == pytest.approx(math.log(9), abs=0.1)
    assert findings.sentence(found) == [
        'The probe finds 3 of the 3 strengths that were planted.',
        'Where nothing was planted it raises 0 false alarms of 5.',
    ]


def test_a_probe_that_sees_bias_everywhere_is_told_so():
    found = findings.findings(measured(4, lambda seed, kind, job: 1 + 0.01 * seed))
    assert findings.sentence(found)[1] == 'Where nothing was planted it raises 5 false alarms of 5.'


def test_one_seed_can_say_nothing(tmp_path):
    one = measured(1, lambda seed, kind, job: 1.0)
    found = findings.findings(one)
    assert [each.found for each in found] == [None] * 8
    assert 'One seed has no interval' in findings.sentence(found)[0]
    page, _ = report.write(tmp_path, dataclasses.replace(Plan(), seeds=1), one)
    assert 'one seed cannot say' in page.read_text()


def test_the_page_and_the_file_have_every_finding(tmp_path):
    numbers = measured(3, lambda seed, kind, job: 0.3 * seed + job.strength)
    page, found = report.write(tmp_path, dataclasses.replace(Plan(), seeds=3), numbers)
    html, stored = page.read_text(), json.loads((tmp_path / 'results.json').read_text())
    assert stored['measured'] == numbers and len(stored['findings']) == len(found) == 8
    for one in found:
        assert all(cell in html for cell in report.row(one))
    assert html.count('<svg') == 3


def test_configs_pair_the_worlds_of_a_seed(tmp_path):
    configs = runs(QUICK, tmp_path)
    assert len(configs) == 2 * QUICK.seeds
    planted, clean = configs['planted, seed 1'], configs['clean, seed 1']
    assert planted.data.corpora != clean.data.corpora
    same = dataclasses.replace(clean, data=dataclasses.replace(clean.data, corpora=planted.data.corpora))
    assert same == planted and planted.seed == planted.data.seed == 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.jsonl')}
    runs(QUICK, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.jsonl')} == before
