"""The assistant's before and after: what its numbers are, and that its steps hang together."""

import pathlib

import numpy as np
import pytest

from experiments.assistant import measure
from experiments.assistant.__main__ import RUNS
from llm.config_file import load_config
from llm.data.tasks import TASKS
from llm.training.answers import Answers

ROOT = pathlib.Path(__file__).parents[2]
PROMPT = [{'role': 'user', 'content': 'Write a Python function `f(a)`.'}]
GOOD, OTHER, BAD = 'def f(a):\n    return a', 'def g(a):\n    return a\n    # <b>', 'def f(a'


def answers(texts, ended):
    return Answers([PROMPT] * len(texts), {'completion': [GOOD] * len(texts)}, texts, np.array(ended), None)


def test_a_check_is_averaged_over_prompts_with_its_standard_error():
    drawn = answers([[GOOD, BAD], [GOOD, GOOD], [BAD, BAD]], [[True, True]] * 3)
    measured = measure.check_all(drawn, measure.CHECKS['python_functions'])
    assert measured.means['as asked'] == pytest.approx(0.5)
    assert measured.errors['as asked'] == pytest.approx(0.5 / 3**0.5)  # of 1/2, 1 and 0, over prompts
    assert measured.means['lines'] == pytest.approx((2 + 1 + 2 + 2 + 1 + 1) / 6)


def test_an_answer_that_was_cut_fails():
    drawn = answers([[GOOD, GOOD], [OTHER, GOOD]], [[True, False], [True, True]])
    measured = measure.check_all(drawn, measure.CHECKS['python_functions'])
    assert measured.means['ends'] == measured.means['parses'] == measured.means['uses its arguments'] == 0.75
    assert measured.means['as asked'] == 0.5


def test_the_page_shows_every_model_and_every_number(tmp_path):
    checks, models = measure.CHECKS['python_functions'], ('before', 'after', measure.REFERENCE)
    written = dict(zip(models, (BAD, OTHER, GOOD)))
    results = measure.Results(
        {
            'python_functions': {
                n: measure.check_all(answers([[t]] * 4, [[True]] * 4), checks) for n, t in written.items()
            }
        },
        {'python_functions': [(PROMPT[0]['content'], written)]},
        {'python_functions': 4},
    )
    text = measure.text_table(results)
    page = measure.write(results, tmp_path / 'new' / 'page.html', 0.7).read_text()
    for row in measure.table(results, 'python_functions')[1]:
        assert all(cell.replace("'", '&#39;') in page and cell in text for cell in row)
    assert '# &lt;b&gt;' in page and '<b>' not in page


def test_a_continuation_ends_with_its_indentation():
    start = 'def f(a, b=1) -> int:\n    """Doc."""\n'
    texts = ['    return a\n\n\ndef g():\n', '    if a:\n\n        return b', '    return a\n# x', 'x = 1']
    drawn = Answers(
        [start] * 2, {'completion': [''] * 2}, [texts] * 2, np.array([[False, False, False, True]] * 2), None
    )
    made = measure.continued(drawn)
    head = 'def f(a, b=1) -> int:\n'
    ends = ['    return a', '    if a:\n\n        return b', '    return a']
    assert made.texts == [[*(head + end for end in ends), head.strip()]] * 2
    assert made.ended.tolist() == [[True, False, True, True]] * 2
    checked = measure.check_all(made, measure.CHECKS['python_functions'])
    assert checked.means['as asked'] == 0.5  # of four, one had no end and one no body


def test_the_steps_hang_together():
    base, sft, dpo = (load_config(str(ROOT / 'configs' / f'{pathlib.Path(run).name}.py')) for run in RUNS)
    assert base.model == sft.model == dpo.model
    assert (sft.init_from.workdir, dpo.init_from.workdir) == tuple(map(str, RUNS[:2]))
    assert set(sft.data.corpora) == {f'task:{task}' for task in measure.CHECKS}
    assert set(measure.LONGEST) == {name for name in TASKS if name.startswith('python_')}
    makefile = (ROOT / 'Makefile').read_text()
    for run, config in zip(RUNS, (base, sft, dpo)):
        assert f'train --config configs/{pathlib.Path(run).name}.py --workdir {run}\n' in makefile
        assert config.schedule.horizon == config.training.steps
    (preferences,) = dpo.data.corpora
    assert f'--out {preferences.removeprefix("jsonl:")}\n' in makefile
