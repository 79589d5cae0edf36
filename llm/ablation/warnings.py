"""What a reader of an ablation has to know before believing it."""

from collections.abc import Callable
from typing import Any

from llm.ablation.plan import cost
from llm.ablation.results import Arm, Results, best_factor
from llm.analysis import memory
from llm.config import Config

CLOSE = 0.02  # arms that differ by less are equal in parameters or FLOPs


def warnings(results: Results) -> list[str]:
    """Sentences, most important first."""
    said = [_unfinished(results), _few_seeds(results), _learning_rates(results), *_unequal(results)]
    said += [_tokenizers(results), _not_decayed(results), _repeated(results), _rollbacks(results), _codes(results)]
    said += [_unpaired(results), results.plan['notes']]
    return [one for one in said if one]


def _unfinished(results: Results) -> str:
    missing = [name for arm in results.arms for name in arm.missing]
    if not missing:
        return ''
    return (
        f'Not done: {", ".join(missing)}. An arm is not compared without all of its seeds: those that are left may be '
        'the lucky ones.'
    )


def _few_seeds(results: Results) -> str:
    if results.seeds >= 3:
        return ''
    return f'{results.seeds} seed{"s are" if results.seeds > 1 else " is"} too few to tell a difference from noise.'


def _learning_rates(results: Results) -> str:
    table = results.plan['learning_rate_factors']
    if not table:
        return (
            'The learning rate was not tuned per arm (--tune): an arm may win or lose because the base’s suits it '
            'better or worse.'
        )
    edges = [
        label for label, tried in table.items() if best_factor(tried) in (min(tried, key=float), max(tried, key=float))
    ]
    edge = f' At the edge of what was tried, so perhaps better beyond it: {"; ".join(edges)}.' if edges else ''
    return (
        'Learning rates were chosen per arm on one seed that is not reported, but on the same held-out documents.'
        + edge
    )


def _unequal(results: Results) -> list[str]:
    budget = results.plan['budget']
    said = []
    for what, measure in (
        ('parameters', lambda arm: memory.parameter_count(arm.config.model)),
        ('tokens', lambda arm: cost(arm.config, 'tokens')),
        ('training FLOPs', lambda arm: cost(arm.config, 'flops')),
    ):
        unequal = _apart(results, measure)
        if unequal:
            advice = ' (--budget flops makes them equal)' if what == 'training FLOPs' and budget == 'tokens' else ''
            said.append(f'Not at equal {what}{advice}: {"; ".join(unequal)}.')
    return said


def _apart(results: Results, measure: Callable[[Arm], float]) -> list[str]:
    base = measure(results.base)
    parts = {one.arm.label: measure(one.arm) / base - 1 for one in results.comparisons}
    return [f'{label} {part:+.0%}'.replace('-', '−') for label, part in parts.items() if abs(part) > CLOSE]


def _tokenizers(results: Results) -> str:
    kinds = {(arm.config.tokenizer, arm.config.model.vocab_size) for arm in results.arms}
    if len(kinds) == 1:
        return ''
    return (
        'Arms cut text differently: a loss per token cannot be compared among them, so training loss is not drawn; '
        'equal tokens are not equal text, and a seed does not pair the text that arms read.'
    )


def _not_decayed(results: Results) -> str:
    after = {arm.label: _steps_after(arm.config) for arm in results.arms}
    early, late = [label for label, steps in after.items() if steps < 0], [label for label in after if after[label] > 0]
    said = [f'Stopped before the end of the schedule: {", ".join(early)}.'] if early else []
    said += [f'Trained on after the end of the schedule, at its last rate: {", ".join(late)}.'] if late else []
    return ' '.join(said)


def _steps_after(config: Config) -> int:
    """Steps made after the schedule's end; negative if it was not reached, 0 if it has none."""
    return config.training.steps - getattr(config.schedule, 'horizon', config.training.steps)


def _repeated(results: Results) -> str:
    repeated = []
    for arm in results.arms:
        unique = _summary(arm).get('data', {}).get('train', {}).get('tokens')
        if unique and cost(arm.config, 'tokens') > unique:
            repeated.append(f'{arm.label} ({cost(arm.config, "tokens") / unique:.1f} times)')
    return f'The training text was read more than once by {", ".join(repeated)}.' if repeated else ''


def _summary(arm: Arm) -> dict[str, Any]:
    return arm.runs[0].workdir.summary()


def _rollbacks(results: Results) -> str:
    lost = [
        run.name
        for arm in results.arms
        for run in arm.runs
        if any(row.get('event') == 'rollback' for row in run.workdir.rows('event'))
    ]
    return f'Diverged on the way, and went on from a checkpoint without the batch: {", ".join(lost)}.' if lost else ''


def _codes(results: Results) -> str:
    versions = {row['code_version'] for arm in results.arms for row in arm.rows if row.get('code_version')}
    return f'Runs are of different code versions: {", ".join(sorted(versions))}.' if len(versions) > 1 else ''


def _unpaired(results: Results) -> str:
    others = results.plan['other_seeds']
    if not others:
        return ''
    return f'Not paired, with seeds that the base does not have: {", ".join(others)}.'
