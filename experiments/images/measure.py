"""The test: every model and every probe asked the same questions about images that none of them has learned from."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.images import probes
from experiments.images.plan import ARMS, BASE, Plan, run_name
from experiments.images.probes import CAPTION, Asked
from llm.analysis import statistics
from llm.analysis.statistics import Difference, Interval
from llm.data import images, tasks_digits
from llm.errors import UserError
from llm.inference.generate import Generator, load_generator
from llm.inference.sampling import SamplingParams
from llm.sweep.registry import Run, status
from llm.workdir import write_atomically

KINDS = (CAPTION, *tasks_digits.QUESTIONS)
LONGEST = 24  # tokens of an answer: more than any right one, with its end
ROWS = 256  # questions answered together
GREEDY = SamplingParams(temperature=0.0)
PROBES = {'linear probe': probes.linear, 'linear probe of each, then the rule': probes.composed}
NO_IMAGE = 'most common answer'


@dataclass(frozen=True)
class Results:
    """Everything the page shows.

    Attributes:
        plan: what was trained.
        tests: the questions, by kind.
        answers: texts by arm, seed and kind.
        baselines: texts by name and kind; not every baseline answers all kinds.
        curves: (step, held-out nats per token) of each arm and seed.
        parameters: of the base's model.
        seconds: that all runs took together.
    """

    plan: Plan
    tests: dict[str, Asked]
    answers: dict[str, list[dict[str, list[str]]]]
    baselines: dict[str, dict[str, list[str]]]
    curves: dict[str, list[list[tuple[int, float]]]]
    parameters: int
    seconds: float

    def right(self, arm: str, kind: str) -> np.ndarray:
        """(seeds, questions): 1 where an arm's answer is the right one, to the letter."""
        return np.array([self._right(answers[kind], kind) for answers in self.answers[arm]])

    def right_of(self, baseline: str, kind: str) -> np.ndarray:
        """(questions,): the same of a baseline."""
        return self._right(self.baselines[baseline][kind], kind)

    def _right(self, given: Sequence[str], kind: str) -> np.ndarray:
        right = self.tests[kind].answers
        return np.array([final(one) == other for one, other in zip(given, right, strict=True)], float)

    def accuracy(self, arm: str, kind: str) -> Interval:
        """Mean over the seeds, with Wilson's interval for as many questions as one seed was asked."""
        right = self.right(arm, kind).mean(0)
        return statistics.wilson_interval(float(right.sum()), len(right))

    def accuracy_of(self, baseline: str, kind: str) -> Interval:
        right = self.right_of(baseline, kind)
        return statistics.wilson_interval(float(right.sum()), len(right))

    def ahead(self, baseline: str, kind: str) -> Interval:
        """How far the base's accuracy (mean over the seeds) is above a baseline's, on the same questions."""
        gain = self.right(BASE, kind).mean(0) - self.right_of(baseline, kind)
        half = statistics.normal_quantile() * (statistics.standard_error(gain) or 0.0)
        return Interval(float(gain.mean()), float(gain.mean()) - half, float(gain.mean()) + half)

    def overall(self, arm: str) -> list[float]:
        """Of each seed, the mean accuracy over the kinds."""
        return np.mean([self.right(arm, kind).mean(1) for kind in KINDS], axis=0).tolist()

    def against_base(self, arm: str) -> Difference:
        """An arm's overall accuracy less the base's, over paired seeds."""
        return statistics.paired_difference(
            self.overall(arm), self.overall(BASE), comparisons=max(1, len(self.answers) - 1)
        )


def final(text: str) -> str:
    """The answer in what a model said: what stands behind the digits that it named first."""
    return text.rpartition(tasks_digits.ANSWER)[2]


def measure(out: pathlib.Path, runs: Sequence[Run], plan: Plan) -> Results:
    """Asks all runs and fits all probes; what a finished run answered is kept beside it.

    An arm counts when all its seeds are done.

    Raises:
        UserError: if the base's are not.
    """
    tests = {kind: _first(probes.test_of(kind), plan.tested) for kind in KINDS}
    by_name = {run.name: run for run in runs}
    named = {arm: [by_name.get(run_name(arm, seed)) for seed in range(plan.seeds)] for arm in plan.arms}
    chosen = {arm: some for arm, some in named.items() if all(run and _done(run) for run in some)}
    if BASE not in chosen:
        raise UserError(f'{out} has no {plan.seeds} finished runs of {BASE}; go on without --report')
    summaries = [run.workdir.summary() for some in chosen.values() for run in some]
    return Results(
        plan=plan,
        tests=tests,
        answers={arm: [_kept(out, run, tests) for run in some] for arm, some in chosen.items()},
        baselines=_baselines(out, tests),
        curves={
            arm: [[(row['step'], row['loss']) for row in run.workdir.rows('evaluation')] for run in some]
            for arm, some in chosen.items()
        },
        parameters=chosen[BASE][0].workdir.summary()['parameters'],
        seconds=sum(summary['seconds'] for summary in summaries),
    )


def _done(run: Run) -> bool:
    return status(run.workdir) == 'done'


def _first(test: Asked, most: int) -> Asked:
    return Asked(test.numbers[:most], test.prompt, test.answers[:most])


def _kept(out: pathlib.Path, run: Run, tests: dict[str, Asked]) -> dict[str, list[str]]:
    """A run's answers, asked for once."""
    loaded = functools.cache(lambda: load_generator(run.workdir))
    return {
        kind: _once(out / 'answers' / f'{run.key}.{kind}.{_digest(test)}.json', lambda test=test: ask(loaded(), test))
        for kind, test in tests.items()
    }


def _once(path: pathlib.Path, answers: Callable[[], list[str]]) -> list[str]:
    """What a file holds; it is written where there is none."""
    if path.is_file():
        return json.loads(path.read_text(encoding='utf-8'))
    found = answers()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(found) + '\n')
    return found


def ask(generator: Generator, test: Asked) -> list[str]:
    """What a model answers to each question: always the most probable byte, up to its end."""
    pixels = tasks_digits.digits().images
    prompts = [
        images.encode_prompt(
            generator.tokenizer, test.prompt, [pixels[number] for number in numbers], generator.model.config
        )
        for numbers in test.numbers
    ]
    found = []
    for start in range(0, len(prompts), ROWS):
        some = prompts[start : start + ROWS]
        room = generator.model.config.context_length + 1 - max(len(prompt.ids) for prompt in some)
        found += generator.generate(some, GREEDY, max_new_tokens=min(LONGEST, room))
    return [one.text if one.finish_reason == 'stop_token' else one.text + '…' for one in found]


def _baselines(out: pathlib.Path, tests: dict[str, Asked]) -> dict[str, dict[str, list[str]]]:
    """What the probes answer: the same for every run, so fitted once and kept."""
    found = {NO_IMAGE: {kind: probes.most_common(kind, test) for kind, test in tests.items()}}
    for name, probe in PROBES.items():
        found[name] = {}
        for kind in tests if probe is probes.linear else tasks_digits.QUESTIONS:
            path = out / 'answers' / f'probe.{probe.__name__}.{kind}.{_digest(tests[kind])}.json'
            found[name][kind] = _once(path, lambda probe=probe, kind=kind: probe(kind, tests[kind]))
    return found


def _digest(test: Asked) -> str:
    return hashlib.sha256(repr(test).encode()).hexdigest()[:8]


def as_json(results: Results) -> dict:
    """All numbers."""
    interval = lambda one: {'mean': one.mean, 'low': one.low, 'high': one.high}
    return {
        'plan': vars(results.plan),
        'questions': {kind: len(test.answers) for kind, test in results.tests.items()},
        'accuracy': {
            arm: {kind: interval(results.accuracy(arm, kind)) for kind in KINDS} | {'overall': results.overall(arm)}
            for arm in results.answers
        },
        'accuracy of seeds': {
            arm: {kind: results.right(arm, kind).mean(1).tolist() for kind in KINDS} for arm in results.answers
        },
        'baselines': {
            name: {kind: interval(results.accuracy_of(name, kind)) for kind in kinds}
            for name, kinds in results.baselines.items()
        },
        'ahead of baselines': {
            name: {kind: interval(results.ahead(name, kind)) for kind in kinds}
            for name, kinds in results.baselines.items()
        },
        'against the base': {
            arm: results.against_base(arm)._asdict() for arm in results.answers if arm != BASE and arm in ARMS
        },
        'held-out loss': results.curves,
        'parameters': results.parameters,
        'seconds of training': results.seconds,
    }
