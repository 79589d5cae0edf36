"""Everything that the page shows, as plain values.

A word is one token, with a space before it where the tokenizer has that, else without; both words of a pair in one
form. For scale, each number of the model's vectors stands beside that of vectors which are nothing but counts of what
stands near what in the same training text: what the corpus teaches without any network.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from absl import logging

from experiments.embeddings import pairs as lists
from llm.analysis import cooccurrence, embeddings, statistics
from llm.errors import UserError
from llm.tokenizer import Tokenizer, open_workdir
from llm.workdir import Workdir

FEWEST = 5  # pairs of a relation that something can be said about
NEAR = 8  # neighbours shown
SHUFFLED_PART = 5  # draws of random words for each shuffle of partners, which is for the eye alone
MODEL, COUNTS = 'the model', 'counts'


def measure(workdir: Workdir, step: int | None, kind: str, draws: int) -> dict[str, Any]:
    """Measures a checkpoint's input embeddings.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest.
        kind: of the map, 'pca' or 'umap'.
        draws: of random words for each relation, for what chance reaches.

    Raises:
        UserError: if there is no such checkpoint, or hardly one of the words is a token.
    """
    from llm import runtime
    from llm.training.checkpoint import load_params

    if draws < 20:
        raise UserError(f'--draws is {draws}; an interval needs at least 20')
    config, tokenizer = runtime.usable_config(workdir), open_workdir(workdir.path)
    step, params = load_params(workdir, step)
    among = embeddings.written_tokens(tokenizer, config.model.vocab_size)
    sources = {MODEL: embeddings.unit_vectors(params, config.model)}
    counted = _counted(config, tokenizer, config.model.width)
    if counted is not None:
        sources[COUNTS] = counted
    relations = {name: find_pairs(tokenizer, words) for name, words in lists.RELATIONS.items()}
    if max(len(found) for found, _ in relations.values()) < FEWEST:
        raise UserError(
            f'the tokenizer of {workdir.path} has hardly one of the words of experiments/embeddings/pairs.py'
        )
    grouped = {name: find_words(tokenizer, words) for name, words in lists.GROUPS.items()}
    vectors = sources[MODEL]
    return {
        'workdir': str(workdir.path),
        'step': step,
        'parameters': workdir.summary().get('parameters'),
        'bits_per_byte': workdir.summary().get('held_out', {}).get('bits_per_byte'),
        'width': config.model.width,
        'candidates': int(among.sum()),
        'draws': draws,
        'relations': relation_scores(relations, sources, among, draws),
        'groups': group_scores(grouped, sources),
        'neighbours': {
            word: [(tokenizer.piece(i), cosine) for i, cosine in embeddings.neighbours(vectors, token, NEAR, among)]
            for word, token in find_words(tokenizer, lists.SHOWN).items()
        },
        'analogies': _analogies(tokenizer, vectors, among),
        'map': make_map({name: words for name, words in grouped.items() if name not in lists.FAR}, vectors, kind),
    }


def _counted(config, tokenizer: Tokenizer, width: int) -> np.ndarray | None:
    """Unit vectors of counts over the run's training text; None, with a warning, where that is not to be had."""
    from llm.data.prepare import prepare

    try:
        stores = prepare(config, tokenizer).train
    except UserError as error:
        logging.warning('without the vectors of counts: %s', error)
        return None
    streams = (store.document(i) for store in stores for i in range(store.num_documents))
    counted = cooccurrence.counts(streams, config.model.vocab_size)
    return embeddings.unit(cooccurrence.vectors(counted, width))


def find_words(tokenizer: Tokenizer, words: Sequence[str]) -> dict[str, int]:
    """The words that are one token, with a space before it if that is one too."""
    found = {}
    for word in dict.fromkeys(words):
        for text in (f' {word}', word):
            ids = tokenizer.encode(text)
            if len(ids) == 1:
                found[word] = ids[0]
                break
    return found


def find_pairs(tokenizer: Tokenizer, pairs: Sequence[str]) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """The pairs whose words are both one token in the same form, and those that are left out."""
    found, left_out = {}, []
    for pair in dict.fromkeys(pairs):
        for space in (' ', ''):
            ids = [tokenizer.encode(space + word) for word in pair.split()]
            if all(len(each) == 1 for each in ids):
                found[pair] = (ids[0][0], ids[1][0])
                break
        else:
            left_out.append(pair)
    return found, left_out


def relation_scores(
    relations: dict[str, tuple[dict[str, tuple[int, int]], list[str]]],
    sources: dict[str, np.ndarray],
    among: np.ndarray,
    draws: int,
) -> list[dict[str, Any]]:
    """Each relation by each source of vectors: 3CosAdd and the nearest to the question; the model's by chance, too."""
    rows = []
    for name, (found, left_out) in tqdm.tqdm(
        relations.items(), 'analogies', unit='relation', file=sys.stderr, disable=None
    ):
        row = {'name': name, 'pairs': list(found), 'left_out': left_out, 'scores': {}}
        if len(found) >= FEWEST:
            ids = np.array(list(found.values()))
            row['scores'] = {source: _scores(vectors, ids, among) for source, vectors in sources.items()}
            row['scores'][MODEL] |= _chance(sources[MODEL], ids, among, draws, row['scores'][MODEL]['reciprocal'])
        rows.append(row)
    scored = [row['scores'][MODEL] for row in rows if row['scores']]
    for one, p in zip(scored, statistics.holm([one['p_value'] for one in scored])):
        one['p_holm'] = p
    return rows


def _scores(vectors, ids, among) -> dict[str, Any]:
    ranks = embeddings.analogy_ranks(vectors, ids, among)
    nearest = embeddings.analogy_ranks(vectors, ids, among, weight=0)
    asked = (ranks > 0).any(axis=0)  # the same for both: what two pairs share does not depend on the weight
    offset_first, nearest_first = by_question(ranks, 1)[asked], by_question(nearest, 1)[asked]
    difference = statistics.paired_difference(offset_first, nearest_first)
    return {
        'questions': int(np.count_nonzero(ranks)),
        'first': statistics.mean_interval(offset_first)._asdict(),
        'in_five': float(np.nanmean(by_question(ranks, 5))),
        'reciprocal': mean_reciprocal(ranks),
        'nearest_first': statistics.mean_interval(nearest_first)._asdict(),
        'nearest_in_five': float(np.nanmean(by_question(nearest, 5))),
        'nearest_reciprocal': mean_reciprocal(nearest),
        'over_nearest': {'mean': difference.mean, 'low': difference.low, 'high': difference.high},
    }


def _chance(vectors, ids, among, draws: int, reached: float) -> dict[str, Any]:
    """What offsets between any two tokens reach, and what those between wrong partners of the same relation do.

    The latter keep what all pairs of a relation have in common, that its second words are plurals, say.
    """
    draw = np.random.default_rng(0)
    candidates = np.flatnonzero(among)
    of_any = lambda: draw.choice(candidates, ids.shape, replace=False)
    shuffled = lambda: np.stack([ids[:, 0], draw.permutation(ids[:, 1])], axis=1)
    random = [embeddings.analogy_ranks(vectors, ids, among, offsets=of_any()) for _ in range(draws)]
    wrong = [embeddings.analogy_ranks(vectors, ids, among, offsets=shuffled()) for _ in range(draws // SHUFFLED_PART)]
    first = lambda several: _middle([float(np.nanmean(by_question(one, 1))) for one in several])
    return {
        'random_first': first(random),
        'shuffled_first': first(wrong),
        'random_reciprocal': _middle([mean_reciprocal(one) for one in random]),
        'p_value': (1 + sum(mean_reciprocal(one) >= reached for one in random)) / (1 + draws),
    }


def by_question(ranks: np.ndarray, within: int) -> np.ndarray:
    """For each pair as the question: how often its answer came within the first places, over all other pairs' offsets.

    A question that no other pair could ask is NaN.
    """
    asked = np.count_nonzero(ranks, axis=0)
    hits = np.count_nonzero((ranks > 0) & (ranks <= within), axis=0)
    return np.divide(hits, asked, out=np.full(len(asked), np.nan), where=asked > 0)


def mean_reciprocal(ranks: np.ndarray) -> float:
    """One over the answer's place, averaged over all that was asked."""
    return float((1 / ranks[ranks > 0]).mean())


def _middle(values: Sequence[float]) -> dict[str, float]:
    """Mean and the middle 95%."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {'mean': float(np.mean(values)), 'low': float(low), 'high': float(high)}


def group_scores(grouped: dict[str, dict[str, int]], sources: dict[str, np.ndarray], mixtures: int = 1000) -> dict:
    """How often the nearest of all grouped words is one of the same group, and what mixed-up groups reach."""
    label = np.repeat(np.arange(len(grouped)), [len(words) for words in grouped.values()])
    ids = [token for words in grouped.values() for token in words.values()]
    scores = {}
    for source, vectors in sources.items():
        cosines = vectors[ids] @ vectors[ids].T
        np.fill_diagonal(cosines, -np.inf)
        nearest = cosines.argmax(axis=1)
        draw, mixed = np.random.default_rng(0), []
        for _ in range(mixtures):
            other = draw.permutation(label)
            mixed.append(float((other[nearest] == other).mean()))
        hits = label[nearest] == label
        scores[source] = {
            'same': statistics.wilson_interval(int(hits.sum()), len(hits))._asdict(),
            'chance': _middle(mixed),
            'by_group': {name: float(hits[label == i].mean()) for i, name in enumerate(grouped) if (label == i).any()},
        }
    return {'words': len(ids), 'scores': scores}


def _analogies(tokenizer: Tokenizer, vectors, among) -> dict[str, list[tuple[str, float]]]:
    rows = {}
    for words in lists.ANALOGIES:
        found = find_words(tokenizer, words.split())
        if len(found) == 3:
            a, b, c = (found[word] for word in words.split())
            best = embeddings.analogy(vectors, a, b, c, n=NEAR // 2, among=among)
            first, second, third = words.split()
            rows[f'{first} : {second} :: {third} : ?'] = [(tokenizer.piece(i), cosine) for i, cosine in best]
    return rows


def make_map(grouped: dict[str, dict[str, int]], vectors: np.ndarray, kind: str) -> dict[str, Any]:
    """Places of the grouped words on a plane made for them."""
    ids = [token for words in grouped.values() for token in words.values()]
    if len(ids) < 4:
        raise UserError('fewer than four of the words of the map are tokens; there is nothing to draw')
    place = embeddings.principal_components(vectors[ids]) if kind == 'pca' else embeddings.umap(vectors[ids])
    points = iter(place.places.tolist())
    return {
        'kind': kind,
        'shares': list(place.shares),
        'groups': {name: {word: next(points) for word in words} for name, words in grouped.items()},
    }
