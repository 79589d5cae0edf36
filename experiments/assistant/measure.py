"""The same held-out prompts for every model, and for scale the library's own answers to them."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm.analysis import pages, units
from llm.config import RewardConfig, RolloutConfig
from llm.data import task_checks
from llm.training.answers import Answers, draw_answers
from llm.workdir import Workdir

Check = Callable[..., list[float]]

# What is measured, by task. The first of the functions' is what preferences reward; what they do not reward comes last.
CHECKS: dict[str, dict[str, Check]] = {
    'python_functions': {
        'as asked': task_checks.as_asked,
        'parses': task_checks.parses,
        'does something': task_checks.does_something,
        'uses its arguments': task_checks.uses_arguments,
        'knows its names': task_checks.known_names,
    },
    'python_docstrings': {'word overlap': task_checks.word_overlap},
}
LONGEST = {'python_functions': 96, 'python_docstrings': 48}  # tokens of an answer
SHOWN = 8  # prompts whose answers the page shows
REFERENCE = "the library's own"


class Measured(NamedTuple):
    """One model on one task: the mean of each check and its standard error over prompts."""

    means: dict[str, float]
    errors: dict[str, float]


class Results(NamedTuple):
    """Everything the page shows.

    Attributes:
        models: names, in their order; the last is the library itself.
        measured: by task, for each of `models`.
        samples: by task: prompt, and the first answer of each of `models`.
        prompts: how many, by task.
    """

    models: list[str]
    measured: dict[str, list[Measured]]
    samples: dict[str, list[tuple[str, list[str]]]]
    prompts: dict[str, int]


def measure(workdirs: Sequence[Workdir], prompts: int, samples: int, temperature: float) -> Results:
    """Draws and checks the answers. Prompts that also occur among those of training are left out."""
    results = Results([*(workdir.path.name for workdir in workdirs), REFERENCE], {}, {}, {})
    for task, checks in CHECKS.items():
        drawn = [
            draw_answers(
                workdir,
                f'task:{task}',
                RolloutConfig(samples_per_prompt=samples, max_new_tokens=LONGEST[task], temperature=temperature),
                RewardConfig(function=f'llm.data.task_checks:{next(iter(checks.values())).__name__}'),
                held_out=True,
                only_new=True,
                max_prompts=prompts,
            )
            for workdir in workdirs
        ]
        own = [row[-1]['content'] for row in drawn[0].columns['completion']]
        reference = drawn[0]._replace(texts=[[text] for text in own], ended=np.ones((len(own), 1), bool))
        results.measured[task] = [check_all(answers, checks) for answers in (*drawn, reference)]
        results.prompts[task] = len(own)
        results.samples[task] = [
            (drawn[0].prompts[i][-1]['content'], [*(answers.texts[i][0] for answers in drawn), own[i]])
            for i in range(0, len(own), -(-len(own) // SHOWN))
        ]
    return results


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
    names = list(results.measured[task][0].means)
    shown = lambda m, name: (
        f'{m.means[name]:.1f}' if name == 'lines' else f'{100 * m.means[name]:.1f} ± {100 * m.errors[name]:.1f}'
    )
    rows = [
        [model, *(shown(measured, name) for name in names)]
        for model, measured in zip(results.models, results.measured[task])
    ]
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
    context: dict[str, Any] = {'models': results.models, 'tasks': tasks, 'temperature': temperature}
    return pages.write_page('page.html.j2', path, context, folder=pathlib.Path(__file__).parent)
