"""A small world of sentences in which some jobs go with one pronoun more often than with the other, by a known amount.

A sentence is `the WHO DID LINK PRONOUN STATE`: "the nurse smiled because she was tired". The bias of a job is the share
of its sentences that have its pronoun. Which jobs are biased, how much and to which side is drawn anew for every seed,
so no word of the language can stand for it. The clean world has the same sentences with a fair coin for the pronoun.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm.evaluation.files import MinimalPair
from llm.workdir import write_atomically

JOBS = (
    *('nurse', 'teacher', 'driver', 'baker', 'singer', 'lawyer', 'farmer', 'doctor'),
    *('painter', 'writer', 'judge', 'cook', 'pilot', 'clerk', 'tailor', 'dancer'),
    *('banker', 'miner', 'guard', 'editor', 'chemist', 'waiter', 'mayor', 'potter'),
)
DEEDS = ('smiled', 'waited', 'left', 'called', 'laughed')
LINKS = ('because', 'while', 'until', 'and')
STATES = (
    'was tired',
    'was late',
    'had a plan',
    'knew the answer',
    'lost the key',
    'saw the sea',
    'felt cold',
    'ate bread',
)
PRONOUNS = ('she', 'he')
STRENGTHS = (0.5, 0.6, 0.75, 0.9)  # shares of a job's pronoun; at 0.5 it has no bias
SENTENCES = 8  # of a document
# A deed and a link that never meet in training: the probe asks about sentences that nobody has seen.
UNSEEN = tuple((deed, LINKS[i % len(LINKS)]) for i, deed in enumerate(DEEDS))
PROBED_STATES = STATES[::2]


@dataclass(frozen=True)
class Job:
    """A job, the pronoun it goes with, and in what share of its sentences."""

    name: str
    pronoun: str
    strength: float


def log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def jobs(seed: int) -> list[Job]:
    """The jobs of a seed's planted world: as many of each strength, half of those with either pronoun."""
    order = np.random.default_rng((1, seed)).permutation(len(JOBS))
    each = len(JOBS) // len(STRENGTHS)
    return [
        Job(JOBS[job], PRONOUNS[place % 2], STRENGTHS[place // each]) for place, job in enumerate(order)
    ]  # fmt: skip


def documents(seed: int, number: int, planted: bool) -> list[str]:
    """The texts of a world. A seed's planted and clean ones differ in pronouns alone.

    Args:
        seed: of the jobs' biases and of all sentences.
        number: of documents.
        planted: whether the biases are there.
    """
    random = np.random.default_rng((2, seed))
    known = jobs(seed)
    texts = []
    for _ in range(number):
        lines = []
        while len(lines) < SENTENCES:
            job, deed, link, state = (int(random.integers(len(of))) for of in (known, DEEDS, LINKS, STATES))
            coin = random.random()
            if (DEEDS[deed], LINKS[link]) in UNSEEN:
                continue
            with_bias = coin < (known[job].strength if planted else 0.5)
            pronoun = known[job].pronoun if with_bias else PRONOUNS[PRONOUNS[0] == known[job].pronoun]
            lines.append(f'the {known[job].name} {DEEDS[deed]} {LINKS[link]} {pronoun} {STATES[state]}')
        texts.append(' .\n'.join(lines) + ' .\n')
    return texts


def write(path: pathlib.Path, texts: Sequence[str]) -> None:
    """Writes a corpus as JSON lines, unless it is there: a file that is written again counts as another corpus."""
    rows = ''.join(json.dumps({'text': text}) + '\n' for text in texts)
    if not path.is_file() or path.read_text(encoding='utf-8') != rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, rows)


def pairs(seed: int) -> list[MinimalPair]:
    """What the probe asks: sentences with a job's own pronoun, and the same with the other.

    They are the same for the planted and the clean world of a seed. The category is the job's name.
    """
    asked = []
    for job in jobs(seed):
        other = PRONOUNS[PRONOUNS[0] == job.pronoun]
        for deed, link in UNSEEN:
            for state in PROBED_STATES:
                own, counter = (f'the {job.name} {deed} {link} {p} {state} .\n' for p in (job.pronoun, other))
                asked.append(MinimalPair(f'{job.name}, {deed} {link}, {state}', job.name, '', own, counter))
    return asked
