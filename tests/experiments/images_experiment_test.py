"""The experiment on image tokens: that its numbers are what they say, and that its command does all of it."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('sklearn')

from experiments.images import measure, probes, report
from experiments.images.plan import ARMS, BASE, QUICK, Plan, base, run_name, runs
from llm.data import tasks_digits
from llm.data.instructions import InstructionReader
from llm.tokenizer import train

KINDS = measure.KINDS


@pytest.fixture(scope='module')
def results():
    """Ten questions of each kind; two seeds of the base that get 9 and 7 right, an arm that gets 5 twice."""
    tests = {kind: measure._first(probes.test_of(kind), 10) for kind in KINDS}

    def answered(right):
        said = lambda answer, kind: answer if kind == probes.CAPTION else f'four, two: {answer}'
        return {
            kind: [said(answer, kind) if i < right else '<wrong>' for i, answer in enumerate(test.answers)]
            for kind, test in tests.items()
        }

    arms = (BASE, 'one token an image')
    return measure.Results(
        plan=dataclasses.replace(QUICK, arms=arms, seeds=2),
        tests=tests,
        answers={BASE: [answered(9), answered(7)], arms[1]: [answered(5), answered(5)]},
        baselines={
            measure.NO_IMAGE: answered(1),
            'linear probe': answered(6),
            'linear probe of each, then the rule': {k: v for k, v in answered(10).items() if k != probes.CAPTION},
        },
        curves={arm: [[(1, 2.0), (2, 1.0)]] * 2 for arm in arms},
        parameters=1234,
        seconds=5.0,
    )


def test_accuracies_and_differences_written_out(results):
    assert results.accuracy(BASE, 'sum').mean == pytest.approx(0.8)
    assert results.overall(BASE) == pytest.approx([0.9, 0.7])
    ahead = results.ahead('linear probe', 'caption')  # of the questions 6, 7, 8 get 1, 1/2, 1/2 more
    gains = np.array([0] * 6 + [1, 0.5, 0.5, 0])
    half = 1.959964 * gains.std(ddof=1) / 10**0.5
    assert (ahead.mean, ahead.low, ahead.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert results.ahead('linear probe of each, then the rule', 'sum').mean == pytest.approx(-0.2)
    assert results.against_base('one token an image').mean == pytest.approx(-0.3)


def test_the_page_has_every_number_and_shows_what_was_wrong(results, tmp_path):
    page = report.write(tmp_path, results).read_text()
    for cells in (*report.table(results)[1], *report.ablation(results)[1]):
        assert all(cell in page for cell in cells)
    assert '&lt;wrong&gt;' in page and '<wrong>' not in page
    assert page.count('data:image/png;base64,') == sum(
        len(results.tests[kind].numbers[0]) * len(report._shown(results, kind)) for kind in KINDS
    )
    numbers = json.loads((tmp_path / 'results.json').read_text())
    assert numbers['accuracy'][BASE]['overall'] == pytest.approx([0.9, 0.7])
    assert len(list((tmp_path / 'test_images').glob('*.png'))) == report.KEPT
    assert 'not distinguishable' in report.text(results) or 'ahead of' in report.text(results)


def test_every_row_fits_and_every_arm_is_another_model():
    plan = Plan()
    configs = runs(plan)
    assert len(configs) == len(ARMS) * plan.seeds and run_name(BASE, 2) in configs
    assert len({config.model for config in configs.values()}) == len(ARMS)
    tokenizer = train(base(plan).tokenizer, 272, [])
    reader = InstructionReader(base(plan), tokenizer)
    pixels, labels = tasks_digits.digits()
    of = {int(label): number for number, label in enumerate(labels)}
    said = lambda kind, *digits: tasks_digits.question(kind, [of[digit] for digit in digits])[1]
    for kind in tasks_digits.QUESTIONS:
        for first in range(10):
            for second in range(10):
                row = {
                    'prompt': tasks_digits.QUESTIONS[kind],
                    'completion': said(kind, first, second),
                    'images': [pixels[0], pixels[1]],
                }
                assert len(reader.read(row)) == 1
    assert not reader.dropped and not reader.noted['truncated']


def test_half_of_the_tests_pairs_are_of_one_digit_and_every_image_is_asked_about_once():
    test, own = probes.test_of('same'), tasks_digits.numbers('test')
    assert abs(test.answers.count('yes') - test.answers.count('no')) <= 1
    assert len(test.answers) == len(own) == len(probes.test_of('sum').answers) == len(probes.test_of('caption').answers)
    assert all(number in pair for number, pair in zip(own, test.numbers))


def test_the_rule_is_applied_to_what_each_digit_is_taken_for(monkeypatch):
    read = {5: 3, 9: 8}
    monkeypatch.setattr(
        probes, 'linear', lambda kind, test: [f'a handwritten {tasks_digits.NUMBERS[read[n]]}' for (n,) in test.numbers]
    )
    test = probes.Asked([(5, 9), (9, 5), (5, 5)], '', [])
    assert probes.composed('sum', test) == ['eleven', 'eleven', 'six']
    assert probes.composed('larger', test) == ['second', 'first', 'equal']
    assert probes.composed('same', test) == ['no', 'no', 'yes']


@pytest.mark.slow
def test_the_command_trains_tests_and_can_be_asked(tmp_path):
    """From nothing to a page; a second time from what is there; then one of its runs is shown a file."""
    command = [sys.executable, '-m', 'experiments.images', '--out', str(tmp_path), '--quick', '--seeds', '1']
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert 'caption' in first.stdout and (tmp_path / 'report.html').is_file()
    again = subprocess.run([*command, '--report'], capture_output=True, text=True, check=False)
    assert again.stdout == first.stdout
    run = next((tmp_path / 'sweep' / 'runs').glob('image-tokens*'))
    files = sorted((tmp_path / 'test_images').glob('*.png'))[:2]
    shown = [part for file in files for part in ('--image', str(file))]
    ask = [sys.executable, '-m', 'llm', 'generate', '--workdir', str(run), '--temperature', '0']
    limit = ['--max-new-tokens', '5', '--prompt', tasks_digits.QUESTIONS['sum']]
    asked = subprocess.run([*ask, *limit, *shown], capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    missing = subprocess.run([*ask, *limit, *shown[:2]], capture_output=True, text=True, check=False)
    assert missing.returncode == 2 and '<image> 2 times for 1 image' in missing.stderr
    assert missing.stderr.strip().count('\n') == 0
