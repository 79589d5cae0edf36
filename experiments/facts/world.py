"""A world of people who do not exist, and four facts about each; some of them are written about, some never.

A name is a first and a last name. Every first and every last name occurs in training, also those of people that nobody
writes about: what a model has not seen of a stranger is the two together. So it cannot tell strangers by an odd word.
"""

import itertools
import json
import pathlib
import random
from typing import NamedTuple

FIRST = (
    *(
        'Ada',
        'Bela',
        'Cleo',
        'Dora',
        'Egon',
        'Fritz',
        'Greta',
        'Hugo',
        'Ines',
        'Jonas',
        'Klara',
        'Lars',
        'Mira',
        'Nils',
    ),
    *('Olga', 'Paul', 'Quinn', 'Rosa', 'Sven', 'Tilda', 'Udo', 'Vera', 'Wanda', 'Xaver', 'Yara', 'Zeno'),
)
LAST = (
    *('Abel', 'Brandt', 'Corvin', 'Dolan', 'Engel', 'Falk', 'Grimm', 'Hauser', 'Ibsen', 'Jensen', 'Kepler', 'Lorenz'),
    *('Marek', 'Novak', 'Olsen', 'Petri', 'Quast', 'Riemer', 'Santos', 'Thoma', 'Ulmer', 'Vogel', 'Weiss', 'Young'),
)
RELATIONS = {  # what can be asked, and every answer to it
    'Born in': (
        *('Athens', 'Bergen', 'Cairo', 'Dublin', 'Essen', 'Florence', 'Geneva', 'Hanoi'),
        *('Izmir', 'Jaipur', 'Kyoto', 'Lima', 'Madrid', 'Nairobi', 'Oslo', 'Prague'),
    ),
    'Works as': (
        *('actor', 'baker', 'cook', 'doctor', 'editor', 'farmer', 'guide', 'hunter'),
        *('judge', 'mason', 'nurse', 'pilot', 'sailor', 'tailor', 'usher', 'weaver'),
    ),
    'Plays': (
        *('accordion', 'banjo', 'cello', 'drums', 'fiddle', 'guitar', 'harp', 'lute'),
        *('mandolin', 'oboe', 'piano', 'recorder', 'sitar', 'trumpet', 'viola', 'zither'),
    ),
    'Keeps': (
        *('badgers', 'camels', 'doves', 'eels', 'ferrets', 'geese', 'hens', 'iguanas'),
        *('jackdaws', 'koalas', 'lizards', 'mice', 'newts', 'otters', 'parrots', 'ravens'),
    ),
}
UNKNOWN = 'unknown'


class Person(NamedTuple):
    """Someone, and the answer to every relation."""

    name: str
    facts: dict[str, str]


class World(NamedTuple):
    """Who is who. Those that are for tuning and those that are asked at the end are different people.

    Attributes:
        known_tuning, known_test: people whose facts are in the training text.
        stranger_tuning, stranger_test: people who are nowhere in it.
    """

    known_tuning: tuple[Person, ...]
    known_test: tuple[Person, ...]
    stranger_tuning: tuple[Person, ...]
    stranger_test: tuple[Person, ...]

    @property
    def known(self) -> tuple[Person, ...]:
        return self.known_tuning + self.known_test


def make(seed: int, tuning: int, test: int, strangers: int) -> World:
    """Draws a world.

    Args:
        seed: of names and facts.
        tuning: people who are known and for tuning.
        test: people who are known and asked at the end, and as many strangers.
        strangers: for tuning.

    Raises:
        ValueError: if there are not enough names, or too few people to have every name among those who are known.
    """
    draw = random.Random(seed)
    first, last = list(FIRST), list(LAST)
    draw.shuffle(first)
    draw.shuffle(last)
    known = [f'{one} {two}' for one, two in zip(first, itertools.cycle(last), strict=False)]  # every name is in it
    others = [f'{one} {two}' for one, two in itertools.product(FIRST, LAST) if f'{one} {two}' not in known]
    draw.shuffle(others)
    most = len(known) + len(others)
    if not len(known) <= tuning + test <= tuning + 2 * test + strangers <= most:
        raise ValueError(f'{tuning + test} people are known; there must be {len(known)} at least, and {most} in all')
    known += [others.pop() for _ in range(tuning + test - len(known))]
    draw.shuffle(known)
    people = iter([Person(n, {r: draw.choice(a) for r, a in RELATIONS.items()}) for n in (*known, *others)])
    sizes = (tuning, test, strangers, test)
    return World(*(tuple(itertools.islice(people, size)) for size in sizes))


def card(person: Person, order: tuple[str, ...]) -> str:
    """What is written about someone: 'Mira Dolan. Plays: harp. Born in: Lima. ...'."""
    return ' '.join([f'{person.name}.', *(f'{relation}: {person.facts[relation]}.' for relation in order)])


def question(person: Person, relation: str) -> str:
    """A card that has just begun; what comes next is the answer."""
    return f'{person.name}. {relation}:'


def answer(word: str) -> str:
    """How an answer is written behind a question."""
    return f' {word}.'


def candidates(relation: str) -> list[str]:
    """Every answer that there is, the last one that there is none."""
    return [*RELATIONS[relation], UNKNOWN]


def documents(world: World, each: int, seed: int) -> list[str]:
    """The training text: about every known person, cards with the facts in different orders.

    Each relation is the first of as many cards, because that is how it will be asked.
    """
    draw = random.Random(seed)
    written = []
    for person in world.known:
        for first in RELATIONS:
            others = [relation for relation in RELATIONS if relation != first]
            orders = draw.sample(list(itertools.permutations(others)), each)
            written += [card(person, (first, *order)) for order in orders]
    draw.shuffle(written)
    return written


def lessons(world: World, abstain: bool, seed: int) -> list[dict[str, str]]:
    """Prompts and completions for tuning: known facts, and with `abstain` strangers, of whom nothing is known."""
    draw = random.Random(seed)
    rows = [(question(p, r), answer(p.facts[r])) for p in world.known_tuning for r in RELATIONS]
    if abstain:
        rows += [(question(p, r), answer(UNKNOWN)) for p in world.stranger_tuning for r in RELATIONS]
    draw.shuffle(rows)
    return [{'prompt': prompt, 'completion': completion} for prompt, completion in rows]


def readings(world: World, each: int, seed: int) -> list[dict[str, str]]:
    """The training text as rows for tuning: a name, and the rest of the card."""
    starts = [(text, text.index('.') + 1) for text in documents(world, each, seed)]
    return [{'prompt': text[:end], 'completion': text[end:]} for text, end in starts]


def write_jsonl(path: pathlib.Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.tmp')
    temporary.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    temporary.replace(path)
