"""What a model answers about people it has read of and about strangers, how sure it is, and whether it is right."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.facts import world
from experiments.facts.plan import CONFIDENT
from experiments.facts.world import Person, World
from llm.analysis.calibration import Reliability
from llm.evaluation.subject import Subject

BINS = 15


class Asked(NamedTuple):
    """Answers to the questions about some people, in the order of people and relations.

    Attributes:
        answers: what the model finds the likeliest of all answers, "unknown" among them.
        guesses: the likeliest without "unknown".
        truths: what is so.
        confidence: the probability of the answer, among all answers.
        guess_confidence: that of the guess, among all answers.
        covered: the probability of all answers together, which the two above were divided by: how surely the model
            says any of them at all.
    """

    answers: list[str]
    guesses: list[str]
    truths: list[str]
    confidence: np.ndarray
    guess_confidence: np.ndarray
    covered: np.ndarray

    @property
    def abstained(self) -> np.ndarray:
        return np.array([answer == world.UNKNOWN for answer in self.answers])

    @property
    def right(self) -> np.ndarray:
        return np.array([answer == truth for answer, truth in zip(self.answers, self.truths, strict=True)])

    @property
    def guessed_right(self) -> np.ndarray:
        return np.array([guess == truth for guess, truth in zip(self.guesses, self.truths, strict=True)])


def ask(subject: Subject, people: Sequence[Person]) -> Asked:
    """Asks a model everything about some people: the exact probability of every answer, nothing is drawn."""
    pairs, places = [], []
    for person in people:
        for relation in world.RELATIONS:
            words = world.candidates(relation)
            places.append((person.facts[relation], words))
            context = world.question(person, relation)
            pairs += [subject.text_pair(context, world.answer(word)) for word in words]
    scores = iter(subject.scorer.score(pairs))
    answers, guesses, confidence, guess_confidence, covered = [], [], [], [], []
    for _, words in places:
        p = np.exp([next(scores).logprob for _ in words])
        covered.append(p.sum())
        p = p / p.sum()
        best, guess = int(p.argmax()), int(p[:-1].argmax())  # "unknown" is the last
        answers.append(words[best])
        guesses.append(words[guess])
        confidence.append(p[best])
        guess_confidence.append(p[guess])
    truths = [truth for truth, _ in places]
    return Asked(answers, guesses, truths, *map(np.array, (confidence, guess_confidence, covered)))


def cautious(asked: Asked, threshold: float) -> Asked:
    """The same model, made to abstain wherever its guess has less than a threshold's probability."""
    sure = asked.guess_confidence >= threshold
    answers = [guess if yes else world.UNKNOWN for guess, yes in zip(asked.guesses, sure, strict=True)]
    return asked._replace(answers=answers, confidence=np.where(sure, asked.guess_confidence, 0.0))


def best_threshold(known: Asked, strangers: Asked) -> float:
    """The threshold with the most right and the fewest wrong answers, on people who are for tuning."""
    confidence = np.concatenate([known.guess_confidence, strangers.guess_confidence])
    right = np.concatenate([known.guessed_right, strangers.guessed_right])
    # Each group counts alike, however many there are.
    weight = np.repeat([1 / len(known.truths), 1 / len(strangers.truths)], [len(known.truths), len(strangers.truths)])
    order = np.argsort(-confidence)
    score = np.cumsum(np.where(right, 1.0, -1.0)[order] * weight[order])
    return float(confidence[order][int(score.argmax())])


def rates(known: Asked, strangers: Asked) -> dict[str, float]:
    """What came of it. All are shares of the questions asked, of known people, of strangers, or of both halves.

    A stranger's truth exists, and may be guessed by chance: that counts as right.
    """
    reliability = Reliability(BINS)
    for asked in (known, strangers):
        answered = ~asked.abstained
        reliability.add(asked.confidence[answered], asked.right[answered])

    def wrong(asked, least):
        return ~asked.abstained & ~asked.right & (asked.confidence >= least)

    both = lambda of: float((of(known).mean() + of(strangers).mean()) / 2)
    return {
        'right, known': float(known.right.mean()),
        'right, strangers': float(strangers.right.mean()),
        'abstains, known': float(known.abstained.mean()),
        'abstains, strangers': float(strangers.abstained.mean()),
        'wrong, known': float(wrong(known, 0).mean()),
        'wrong, strangers': float(wrong(strangers, 0).mean()),
        'confidently wrong, known': float(wrong(known, CONFIDENT).mean()),
        'confidently wrong, strangers': float(wrong(strangers, CONFIDENT).mean()),
        'confidently wrong': both(lambda asked: wrong(asked, CONFIDENT)),
        'right': both(lambda asked: asked.right),
        'answers': reliability.total / (len(known.truths) + len(strangers.truths)),
        'mean confidence of answers': reliability.confidence,
        'accuracy of answers': reliability.accuracy,
        'calibration error': reliability.error if reliability.total else float('nan'),
        'said at all': both(lambda asked: asked.covered),
        'told apart': apart(known.guess_confidence, strangers.guess_confidence),
    }


def apart(known: np.ndarray, strangers: np.ndarray) -> float:
    """The probability that someone known has the higher confidence than a stranger; 0.5 is chance (the ROC's area)."""
    values = np.concatenate([known, strangers])
    order = values.argsort()
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):  # equals share their rank
        same = values == value
        ranks[same] = ranks[same].mean()
    total = ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2
    return float(total / (len(known) * len(strangers)))


def reliability_rows(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """The reliability diagram of everything that was answered."""
    reliability = Reliability(BINS)
    for one in asked:
        reliability.add(one.confidence[~one.abstained], one.right[~one.abstained])
    return reliability.rows()


def examples(world_: World, known: dict[str, Asked], strangers: dict[str, Asked], count: int) -> list[dict[str, Any]]:
    """A few questions, with what each model says."""
    found = []
    for people, asked, group in ((world_.known_test, known, 'known'), (world_.stranger_test, strangers, 'stranger')):
        relations = list(world.RELATIONS)
        for i in range(count):
            place = i * len(relations) + i % len(relations)
            person, relation = people[i], relations[i % len(relations)]
            said = {name: (one.answers[place], float(one.confidence[place])) for name, one in asked.items()}
            found.append(
                {
                    'question': world.question(person, relation),
                    'group': group,
                    'truth': person.facts[relation],
                    'said': said,
                }
            )
    return found
