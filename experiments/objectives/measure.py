"""Which of several spans stood in a gap: every model chooses the one that it finds most probable, in its own way.

    causal, left and right   log p(span and what follows | what precedes): the likelihood of the whole text
    causal, left alone       log p(span | what precedes)
    prefix                   log p(span and what follows | what precedes, as a prefix)
    masked                   the sum over the gap's tokens, from left to right, of log p(token | both sides, those of
                             the gap before it; those behind it masked)
    span                     log p(span and an end | the text with a blank)

The spans are as long as each other, so that no length is favoured, and all come from held-out text.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.objectives.plan import ARMS, CAUSAL, Plan
from llm import runtime
from llm.analysis import flops, statistics
from llm.analysis.memory import parameter_count
from llm.config import Config, Masked, NextToken, Objective, PrefixLM
from llm.data.corruption import blank_ids
from llm.data.prepare import prepare
from llm.model import Transformer
from llm.objectives import next_token
from llm.sweep.registry import Run
from llm.tokenizer import Tokenizer, open_workdir
from llm.training.checkpoint import load_params

LEFT = 'causal, left alone'
ROWS = 256  # read together

Gap = tuple[list[int], list[list[int]], list[int]]  # what precedes, the spans with the right one first, what follows


def measure(plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """Asks every run, and compares the arms over their seeds."""
    configs = {run.name: runtime.stored_config(run.workdir) for run in runs}
    first = runs[0].workdir
    tokenizer = open_workdir(first.path)
    held_out = prepare(configs[runs[0].name], tokenizer).held_out[0]
    gaps = draw_gaps(plan, held_out.tokens, tokenizer)
    rights: dict[str, list[list[bool]]] = {}
    summaries: dict[str, list[dict[str, Any]]] = {}
    for run in tqdm(runs, 'choosing', unit='run', disable=None, leave=False):
        arm, config = run.name.split('/')[0], configs[run.name]
        _, params = load_params(run.workdir)
        rights.setdefault(arm, []).append(choose(config, params, gaps, tokenizer))
        if arm == CAUSAL:
            rights.setdefault(LEFT, []).append(choose(config, params, gaps, tokenizer, left_alone=True))
        summaries.setdefault(arm, []).append(run.workdir.summary())
    accuracies = {arm: [float(np.mean(one)) for one in rights[arm]] for arm in (*ARMS, LEFT) if arm in rights}
    others = [arm for arm in accuracies if arm != CAUSAL]
    differences = {
        arm: statistics.paired_difference(accuracies[arm], accuracies[CAUSAL], comparisons=len(others))
        for arm in others
    }
    over_gaps = {  # of these very runs: what the choice of gaps leaves open
        arm: statistics.paired_difference(np.mean(rights[arm], axis=0), np.mean(rights[CAUSAL], axis=0))
        for arm in others
    }
    corrected = dict(zip(others, statistics.holm([differences[arm].p_value for arm in others]), strict=True))
    rows = []
    for arm in accuracies:
        trained = summaries.get(arm, summaries[CAUSAL])
        config = configs[next(run.name for run in runs if run.name.startswith(f'{CAUSAL if arm == LEFT else arm}/'))]
        bits = [one['held_out'].get('bits_per_byte') for one in trained]
        rows.append(
            {
                'arm': arm,
                'how': ARMS.get(arm, 'the same runs, without what follows the gap'),
                'accuracies': accuracies[arm],
                'accuracy': statistics.mean_interval(accuracies[arm])._asdict(),
                'difference': None if arm == CAUSAL else differences[arm]._asdict() | {'p_holm': corrected[arm]},
                'over_gaps': None if arm == CAUSAL else over_gaps[arm]._asdict(),
                'parameters': parameter_count(config.model),
                'tokens': trained[0]['tokens'],
                'flops': flops.flops_per_text_token(config) * trained[0]['tokens'],
                'guessed_per_window': guessed(config),
                'loss': float(np.mean([one['held_out']['loss'] for one in trained])),
                'bits_per_byte': None if None in bits else statistics.mean_interval(bits)._asdict(),
                'seconds': float(np.mean([one['seconds'] for one in trained])),
            }
        )
    return {
        'rows': rows,
        'gaps': len(gaps),
        'gap_length': plan.gap_length,
        'choices': plan.choices,
        'seeds': plan.seeds,
        'steps': plan.steps,
        'length': plan.length,
    }


def draw_gaps(plan: Plan, tokens: np.ndarray, tokenizer: Tokenizer) -> list[Gap]:
    """Windows within one document, a gap in the middle half of each, and wrong spans from elsewhere."""
    rng = np.random.default_rng(0)
    special = np.isin(tokens, list(tokenizer.special))
    plain = lambda length: ~np.lib.stride_tricks.sliding_window_view(special, length).any(axis=1)
    spans, starts = np.flatnonzero(plain(plan.gap_length)), np.flatnonzero(plain(plan.length))
    found: list[Gap] = []
    for start in rng.choice(starts, min(plan.gaps, len(starts)), replace=False):
        window = tokens[start : start + plan.length].tolist()
        at = int(rng.integers(plan.length // 4, 3 * plan.length // 4 - plan.gap_length))
        right = window[at : at + plan.gap_length]
        wrong: list[list[int]] = []
        while len(wrong) < plan.choices - 1:
            place = spans[rng.integers(len(spans))]
            span = tokens[place : place + plan.gap_length].tolist()
            if span != right and span not in wrong:
                wrong.append(span)
        found.append((window[:at], [right, *wrong], window[at + plan.gap_length :]))
    return found


def choose(
    config: Config, params: Any, gaps: Sequence[Gap], tokenizer: Tokenizer, left_alone: bool = False
) -> list[bool]:
    """Whether the model finds the right span the most probable, of each gap."""
    make = functools.partial(_rows_of(config), tokenizer=tokenizer, left_alone=left_alone)
    rows = [row for left, spans, right in gaps for span in spans for row in make(left, span, right)]
    groups = {}  # rows of one shape together
    for number, row in enumerate(rows):
        groups.setdefault(len(row['inputs']), []).append(number)
    scores = np.zeros(len(rows))
    program = _scorer(Transformer(config.model), config.objective)
    for numbers in groups.values():
        for at in range(0, len(numbers), ROWS):
            part = numbers[at : at + ROWS]
            filled = part + part[:1] * (ROWS - len(part))
            batch = {name: np.stack([rows[i][name] for i in filled]) for name in rows[0]}
            scores[part] = np.asarray(program(params, batch))[: len(part)]
    per_gap = scores.reshape(len(gaps), len(gaps[0][1]), -1).sum(axis=-1)
    return [bool(one[0] > one[1:].max()) for one in per_gap]


@functools.lru_cache(maxsize=8)
def _scorer(model: Transformer, objective: Objective) -> Callable[[Any, Any], Any]:
    hyper = next_token.hyperparameters(NextToken())

    @jax.jit
    def score(params, batch):
        logits = model.apply({'params': params}, **next_token.model_inputs(objective, batch)).logits
        return -(next_token.token_losses(logits, batch['targets'], hyper)[1] * batch['loss_weights']).sum(axis=-1)

    return score


# ----------------------------------------------------------------------------------- what a model is asked about a span


def _rows_of(config: Config) -> Callable[..., list[dict[str, np.ndarray]]]:
    if isinstance(config.objective, Masked):
        return _masked
    if isinstance(config.objective, NextToken | PrefixLM):
        return functools.partial(_next, prefix=isinstance(config.objective, PrefixLM))
    return functools.partial(_span, encoder=config.model.encoder_layers > 0)


def _next(left, span, right, *, tokenizer, left_alone, prefix):
    row = np.array([*left, *span, *right], np.int32)
    weights = np.zeros(len(row) - 1, np.float32)
    weights[len(left) - 1 : len(left) + len(span) - 1 if left_alone else None] = 1
    found = {'inputs': row[:-1], 'targets': row[1:], 'loss_weights': weights}
    return [found | ({'prefix_lengths': np.int32(len(left))} if prefix else {})]


def _masked(left, span, right, *, tokenizer, left_alone):
    mask, targets = blank_ids(tokenizer)[0], np.array([*left, *span, *right], np.int32)
    rows = []
    for place in range(len(span)):
        inputs = targets.copy()
        inputs[len(left) + place : len(left) + len(span)] = mask
        weights = np.zeros(len(targets), np.float32)
        weights[len(left) + place] = 1
        rows.append({'inputs': inputs, 'targets': targets, 'loss_weights': weights})
    return rows


def _span(left, span, right, *, tokenizer, left_alone, encoder):
    mark = blank_ids(tokenizer)[0]
    source = np.array([*left, mark, *right], np.int32)
    written = np.array([tokenizer.start_id, mark, *span, tokenizer.end_id], np.int32)
    row = {
        'inputs': written[:-1],
        'targets': written[1:],
        'loss_weights': (np.arange(len(written) - 1) > 0).astype(np.float32),
    }
    if encoder:
        return [row | {'source': source, 'source_segment_ids': np.ones_like(source)}]
    before = {name: np.zeros(len(source), x.dtype) for name, x in row.items()} | {'inputs': source}
    joined = {name: np.concatenate([before[name], x]) for name, x in row.items()}
    return [joined | {'prefix_lengths': np.int32(len(source))}]


# --------------------------------------------------------------------------------------------------------- what it cost


def guessed(config: Config) -> float:
    """Tokens of a window that a model is asked for in training, on average: what its gradient comes from."""
    length = config.data.sequence_length
    if isinstance(config.objective, NextToken):
        return float(length)
    if isinstance(config.objective, Masked):
        return float(max(round(length * config.objective.rate), 1))
    return (length + 1) / 2 if isinstance(config.objective, PrefixLM) else float(config.objective.target_length(length))
