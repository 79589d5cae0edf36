"""The same held-out prompts for every model, and for scale the library's own answers to them."""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from llm.analysis import pages, units
from llm.config import RewardConfig, RolloutConfig
from llm.data import task_checks
from llm.training.answers import Answers, draw_answers
from llm.workdir import Workdir

Check = Callable[..., list[float]]

# What is measured, by task. Of the functions', the last two are not part of what preferences reward.
CHECKS: dict[str, dict[str, Check]] = {
    'python_functions': {
        'as asked': task_checks.as_asked,
        'parses': task_checks.parses,
        'uses its arguments': task_checks.uses_arguments,
        'knows its names': task_checks.known_names,
        'does something': task_checks.does_something,
        'word overlap': task_checks.word_overlap,
    },
    'python_docstrings': {'word overlap': task_checks.word_overlap},
}
LONGEST = {'python_functions': 96, 'python_docstrings': 48, 'python_bodies': 96}  # tokens of an answer
SHOWN = 8  # prompts whose answers the page shows
REFERENCE = "the library's own"
CONTINUING = 'given the `def`'  # asked as a model is asked that only continues texts


class Measured(NamedTuple):
    """One model on one task: the mean of each check and its standard error over prompts."""

    means: dict[str, float]
    errors: dict[str, float]


class Results(NamedTuple):
    """Everything the page shows, by task.

    Attributes:
        measured: what each model reached, by its name, in order.
        samples: prompts, and an answer of each model.
        prompts: how many there were.
    """

    measured: dict[str, dict[str, Measured]]
    samples: dict[str, list[tuple[str, dict[str, str]]]]
    prompts: dict[str, int]


def measure(workdirs: Sequence[Workdir], prompts: int, samples: int, temperature: float) -> Results:
    """Draws and checks the answers. Prompts that also occur among those of training are left out."""

    def draw(workdir, task, reward):
        return draw_answers(
            workdir,
            f'task:{task}',
            RolloutConfig(samples_per_prompt=samples, max_new_tokens=LONGEST[task], temperature=temperature),
            RewardConfig(function=f'llm.data.task_checks:{reward.__name__}'),
            held_out=True,
            only_new=True,
            max_prompts=prompts,
        )

    results = Results({}, {}, {})
    for task, checks in CHECKS.items():
        reward = next(iter(checks.values()))
        drawn = {workdir.path.name: draw(workdir, task, reward) for workdir in workdirs}
        first = next(iter(drawn.values()))
        own = [row[-1]['content'] for row in first.columns['completion']]
        drawn[REFERENCE] = first._replace(texts=[[text] for text in own], ended=np.ones((len(own), 1), bool))
        results.prompts[task] = len(own)
        results.samples[task] = [
            (first.prompts[i][-1]['content'], {name: answers.texts[i][0] for name, answers in drawn.items()})
            for i in range(0, len(own), -(-len(own) // SHOWN))
        ]
        if task == 'python_functions':
            begun = continued(draw(workdirs[0], 'python_bodies', task_checks.word_overlap))
            drawn = {f'{workdirs[0].path.name}, {CONTINUING}': begun, **drawn}
        results.measured[task] = {name: check_all(answers, checks) for name, answers in drawn.items()}
    return results


def continued(drawn: Answers) -> Answers:
    """What a model wrote after the beginning of a function, as answers to the question for that function.

    The function ends before the first line that is not indented.
    """
    prompts, texts, ended = [], [], drawn.ended.copy()
    for i, (start, continuations) in enumerate(zip(drawn.prompts, drawn.texts)):
        signature = start.split('\n')[0]
        prompts.append(f'`{signature.removeprefix("def ").partition(" -> ")[0].removesuffix(":")}`')
        texts.append([])
        for j, text in enumerate(continuations):
            body = re.split(r'^(?=[^\s])', text, maxsplit=1, flags=re.MULTILINE)
            ended[i, j] |= len(body) > 1
            texts[-1].append(f'{signature}\n{body[0]}'.rstrip())
    return drawn._replace(prompts=prompts, texts=texts, ended=ended)


def check_all(answers: Answers, checks: dict[str, Check]) -> Measured:
    """Every check of every answer, averaged. An answer that had to be cut fails them all."""
    samples = len(answers.texts[0])
    repeated = lambda values: [value for value in values for _ in range(samples)]
    columns = {name: repeated(values) for name, values in answers.columns.items()}
    prompts, texts = repeated(answers.prompts), [text for row in answers.texts for text in row]
    scores = {
        name: np.array(check(prompts, texts, **columns)).reshape(-1, samples) * answers.ended
        for name, check in checks.items()
    }
    scores['ends'] = answers.ended.astype(float)
    scores['lines'] = np.array([len(text.splitlines()) for text in texts], float).reshape(-1, samples)
    per_prompt = {name: values.mean(axis=1) for name, values in scores.items()}
    return Measured(
        {name: float(values.mean()) for name, values in per_prompt.items()},
        {name: float(values.std(ddof=1) / len(values) ** 0.5) for name, values in per_prompt.items()},
    )


def table(results: Results, task: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a task's table."""
    measured = results.measured[task]
    names = list(next(iter(measured.values())).means)

    def shown(m, name):
        if name == 'lines':
            return f'{m.means[name]:.1f}'
        return f'{100 * m.means[name]:.1f} ± {100 * m.errors[name]:.1f}'

    rows = [[model, *(shown(m, name) for name in names)] for model, m in measured.items()]
    return ['', *(name if name == 'lines' else f'{name}, %' for name in names)], rows


def text_table(results: Results) -> str:
    parts = [
        f'{task}: {results.prompts[task]} held-out prompts, mean ± standard error\n{units.table(*table(results, task))}'
        for task in results.measured
    ]
    return '\n\n'.join(parts)


def write(results: Results, path: pathlib.Path, temperature: float) -> pathlib.Path:
    """Writes the page."""
    tasks = [
        {
            'name': task,
            'prompts': results.prompts[task],
            'table': table(results, task),
            'samples': results.samples[task],
        }
        for task in results.measured
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    context = {'tasks': tasks, 'temperature': temperature}
    return pages.write_page('page.html.j2', path, context, folder=pathlib.Path(__file__).parent)
