"""The world keeps its strangers strange, and the rates are what they say."""

import json

import numpy as np
import pytest

from experiments.facts import measure, report, world
from experiments.facts.measure import Asked
from experiments.facts.plan import ARMS, CONFIDENT, QUICK, Plan, config, make_world, write_data


def test_strangers_are_nowhere_in_the_text_but_their_names_are():
    plan = Plan()
    people = make_world(plan, 3)
    texts = world.documents(people, plan.cards, 3)
    names = {person.name for person in people.known}
    assert {text.split('.')[0] for text in texts} == names
    first, last = zip(*(name.split() for name in names))
    for person in (*people.stranger_tuning, *people.stranger_test):
        assert person.name not in names
        assert person.name.split()[0] in first and person.name.split()[1] in last
    groups = [{person.name for person in group} for group in people]
    assert sum(map(len, groups)) == len(set.union(*groups))  # nobody is in two of them


def test_every_fact_is_first_on_as_many_cards_as_the_others():
    people = make_world(QUICK, 0)
    texts = world.documents(people, 3, 0)
    assert len(set(texts)) == len(texts) == len(people.known) * 4 * 3
    for person in people.known:
        for relation, answer in person.facts.items():
            start = world.question(person, relation) + world.answer(answer)
            assert sum(text.startswith(start) for text in texts) == 3
            assert sum(start.removeprefix(f'{person.name}.') in t for t in texts if t.startswith(person.name)) == 12


def test_lessons_are_about_other_people_than_those_who_are_asked():
    people = make_world(QUICK, 0)
    asked = {person.name for person in (*people.known_test, *people.stranger_test)}
    for abstain in (False, True):
        rows = world.lessons(people, abstain, 0)
        assert not asked & {row['prompt'].split('.')[0] for row in rows}
        unknown = [row for row in rows if row['completion'] == ' unknown.']
        assert len(unknown) == (len(people.stranger_tuning) * 4 if abstain else 0)


def test_runs_of_a_seed_start_from_what_has_read_its_facts(tmp_path):
    write_data(QUICK, 0, tmp_path)
    for arm in ARMS:
        run = config(QUICK, 0, arm, tmp_path, tmp_path / 'facts')
        assert (tmp_path / f'{arm}.jsonl').is_file() and run.data.corpora == (f'jsonl:{tmp_path / arm}.jsonl',)
        assert bool(run.init_from.workdir) == (arm != 'facts')
    assert all(json.loads(line)['prompt'] for line in (tmp_path / 'abstains.jsonl').read_text().splitlines())


def asked(answers, guesses, truths, confidence, guess_confidence):
    return Asked(answers, guesses, truths, np.array(confidence), np.array(guess_confidence), np.ones(len(answers)))


KNOWN = asked(
    ['a', 'b', 'unknown', 'd'], ['a', 'b', 'c', 'd'], ['a', 'b', 'c', 'x'], [0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.2, 0.6]
)
STRANGERS = asked(
    ['unknown', 'b', 'c', 'd'], ['a', 'b', 'c', 'd'], ['x', 'x', 'x', 'd'], [0.9, 0.6, 0.3, 0.2], [0.1, 0.6, 0.3, 0.2]
)


def test_rates_by_hand():
    found = measure.rates(KNOWN, STRANGERS)
    assert found['right, known'] == 0.5 and found['abstains, known'] == 0.25 and found['wrong, known'] == 0.25
    assert found['right, strangers'] == 0.25 and found['wrong, strangers'] == 0.5
    assert found['confidently wrong, strangers'] == 0.25 and found['confidently wrong, known'] == 0.25
    assert found['answers'] == 6 / 8 and found['accuracy of answers'] == pytest.approx(3 / 6)
    above = [(k, s) for k in KNOWN.guess_confidence for s in STRANGERS.guess_confidence]
    area = np.mean([(k > s) + 0.5 * (k == s) for k, s in above])
    assert found['told apart'] == pytest.approx(area)


def test_a_threshold_is_silent_below_it_and_is_chosen_by_right_less_wrong():
    threshold = measure.best_threshold(KNOWN, STRANGERS)
    assert threshold == pytest.approx(0.8)  # below it one is wrong among strangers, and one among the known
    careful = measure.cautious(STRANGERS, threshold)
    assert careful.abstained.all() and measure.rates(measure.cautious(KNOWN, threshold), careful)['wrong, known'] == 0
    assert CONFIDENT == 0.5


def test_the_page(tmp_path):
    draw = np.random.default_rng(0)
    rates = measure.rates(KNOWN, STRANGERS)
    noisy = lambda: {name: float(np.clip(value + draw.normal(0, 0.05), 0, 1)) for name, value in rates.items()}
    results = {
        'rates': {arm: [noisy() for _ in range(3)] for arm in report.LABELS},
        'thresholds': [0.8],
        'reliability': {arm: measure.reliability_rows([KNOWN, STRANGERS]) for arm in report.LABELS},
        'examples': [
            {'question': 'Q', 'group': 'known', 'truth': 'a', 'said': dict.fromkeys(report.LABELS, ('a', 0.5))}
        ],
        'facts': {'worlds': 3},
    }
    page = report.write(tmp_path, results).read_text()
    assert 'Taught to abstain, and still reading' in page and page.count('<svg') == 2
    stored = json.loads((tmp_path / 'results.json').read_text())
    assert len(stored['comparisons']) == 9 == sum(map(len, report.COMPARED.values()))
    assert len(report.table(results).splitlines()) >= len(report.SHOWN)
