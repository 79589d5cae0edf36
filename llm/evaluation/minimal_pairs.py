"""Minimal pairs: which of two texts that differ in little a model finds more likely. A probe of bias, or of grammar.

The preference rate is the share of pairs in which the first text has the higher likelihood; a tie counts half. For
paired sentences of which the first is a stereotype (CrowS-Pairs, Nangia et al. 2020) a model without that bias is at
0.5; where the first is the grammatical one (BLiMP, Warstadt et al. 2020) a good model is at 1. The interval is
Wilson's. A second rate divides each log-likelihood by the UTF-8 bytes of its text, since texts may differ in length.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llm.errors import UserError
from llm.evaluation import results
from llm.evaluation.files import MinimalPair
from llm.evaluation.results import Result
from llm.evaluation.subject import Subject


def measure(task: str, pairs: Sequence[MinimalPair], subject: Subject, *, progress: Callable[[int], Any]) -> Result:
    """Compares the texts of pairs.

    Args:
        task: its name.
        pairs: at least one.
        subject: whose preferences.
        progress: told how many texts are done.

    Raises:
        UserError: if a text does not fit the model's context.
    """
    asked = [subject.text_pair(pair.context, text) for pair in pairs for text in (pair.first, pair.second)]
    context = subject.model.config.context_length
    for number, request in enumerate(asked):
        if len(request.context) + len(request.continuation) > context + 1:
            where = pairs[number // 2].where
            raise UserError(f"{where}: the text is longer than the model's context of {context} tokens; shorten it")
    scores = subject.scorer.score(asked, progress)
    samples = []
    for pair, first, second in zip(pairs, scores[::2], scores[1::2]):
        per_byte = [score.logprob / len(text.encode()) for score, text in ((first, pair.first), (second, pair.second))]
        samples.append(
            {
                'where': pair.where,
                'category': pair.category,
                'context': pair.context,
                'first': pair.first,
                'second': pair.second,
                'logprobs': [first.logprob, second.logprob],
                'tokens': [first.tokens, second.tokens],
                'prefers_first': _preference(first.logprob, second.logprob),
                'prefers_first_per_byte': _preference(*per_byte),
            }
        )
    metrics = (
        results.rate('preference_rate', (sample['prefers_first'] for sample in samples)),
        results.rate('preference_rate_per_byte', (sample['prefers_first_per_byte'] for sample in samples)),
        results.mean('log_likelihood_difference', (s['logprobs'][0] - s['logprobs'][1] for s in samples)),
    )
    facts = {
        'pairs': len(pairs),
        'preferred': 'the first text of a pair',
        'ties': sum(sample['prefers_first'] == 0.5 for sample in samples),
        'unit of the difference': 'nats, first less second',
    }
    groups = results.by_category((sample['category'], sample['prefers_first']) for sample in samples)
    return Result(task, 'minimal_pairs', metrics, facts, (), groups, tuple(samples))


def _preference(first: float, second: float) -> float:
    return 0.5 if first == second else float(first > second)
