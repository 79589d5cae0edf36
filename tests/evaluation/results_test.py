"""Results on disk: found again only as long as they depend on the same, and shown as they are."""

import dataclasses
import json

import pytest

from llm.config import Config
from llm.evaluation import page, results
from llm.evaluation.results import Folder, Metric, Result
from llm.workdir import Workdir

RESULT = Result(
    'tasks/<b>.jsonl',
    'multiple_choice',
    (results.rate('accuracy', [1, 0, 1, 1]), Metric('calibration_error', 0.25, 4)),
    {'questions': 4, 'nothing': None},
    ({'low': 0.5, 'high': 1.0, 'count': 4, 'confidence': 0.9, 'accuracy': 0.75},),
    (results.rate('a', [1, 0]),),
    (
        {
            'prompt': '<script>alert(1)</script>',
            'choices': ['x', '\ud83d'],  # half of a surrogate pair
            'answer': 0,
            'prediction': 1,
            'right': False,
            'confidence': 0.9,
        },
    ),
)
DEPENDS_ON = {'params_sha256': 'abc', 'step': 3, 'ema': False, 'until': ('\n',)}


def test_a_result_is_found_while_it_depends_on_the_same(tmp_path):
    folder = Folder(tmp_path / 'evaluations')
    assert folder.find(RESULT.task, DEPENDS_ON) is None
    written = folder.write(RESULT, DEPENDS_ON)
    assert folder.find(RESULT.task, DEPENDS_ON) == dataclasses.replace(RESULT, samples=())
    assert folder.find('tasks/_b_.jsonl', DEPENDS_ON) is None  # another name that looks the same as a folder's
    for name, value in (('params_sha256', 'abd'), ('until', ()), ('more', 1)):
        assert folder.find(RESULT.task, DEPENDS_ON | {name: value}) is None
    (line,) = (written / 'samples.jsonl').read_text().splitlines()
    assert json.loads(line)['prompt'] == '<script>alert(1)</script>'
    for damaged in ('', '{}', '{"result": {}, "depends_on": {}}', '[1]'):
        (written / 'result.json').write_text(damaged)
        assert folder.find(RESULT.task, DEPENDS_ON) is None and folder.all() == []


def test_samples_hold_whatever_ends_a_line_elsewhere(tmp_path):
    folder = Folder(tmp_path)
    samples = tuple({'prompt': f'a{end}b'} for end in '\u2028\u2029\x85\x0b\x0c\x1c\r\n')
    folder.write(dataclasses.replace(RESULT, samples=samples), DEPENDS_ON)
    ((_, _, found),) = folder.all()
    assert found == list(samples)


def test_the_page_shows_results_of_these_parameters_only(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.write_config(Config(name='some <i>run</i>'))
    folder = Folder(tmp_path / 'evaluations')
    folder.write(RESULT, DEPENDS_ON)
    folder.write(dataclasses.replace(RESULT, task='stale'), DEPENDS_ON | {'params_sha256': 'other'})
    html = page.write(workdir, folder, 'abc').read_text()
    assert 'stale' not in html and '<script>' not in html and '<i>run' not in html
    for shown in ('tasks/&lt;b&gt;.jsonl', '0.7500', 'alert(1)', 'calibration error 0.250', 'step 3'):
        assert shown in html
    assert html.count('<svg') == 2  # reliability, categories


def test_an_interval_is_cut_where_no_value_can_lie():
    free, cut = results.mean('a', [0.0, 0.1, 1.9]), results.mean('a', [0.0, 0.1, 1.9], within=(0.0, 2.0))
    assert free.low < 0 and free.high > 2 and (cut.low, cut.high) == (0.0, 2.0)
    assert (free.value, free.error) == (cut.value, cut.error)
    assert results.mean('a', [0.5], within=(0.0, 2.0)).low is None


def test_the_table_has_a_line_for_each_number():
    lines = results.table([RESULT, dataclasses.replace(RESULT, task='other')]).splitlines()
    assert len(lines) == 6 and lines[2].split()[:3] == ['tasks/<b>.jsonl', 'accuracy', '0.7500']
    assert lines[3].split() == ['calibration_error', '0.2500', '4']


@pytest.mark.parametrize(('value', 'text'), [(0.5, '0.5000'), (12345.678, '12,345.68'), (0.00012, '0.00012')])
def test_numbers_for_people(value, text):
    assert results.text(value) == text


def test_names_become_folders_and_stay_apart():
    names = ['python_stdlib', 'a/b.jsonl', 'a_b.jsonl', 'text:/c/**/*', '../x', '..', 'y' * 300, 'y' * 301]
    folders = [results.slug(name) for name in names]
    assert len(set(folders)) == len(names) and folders[0] == 'python_stdlib'
    assert all(0 < len(folder) < 80 and '/' not in folder and folder.strip('.') for folder in folders)
