"""`evaluation.html`: everything that was measured on one checkpoint."""

import pathlib
from collections.abc import Sequence
from typing import Any

from llm.analysis import pages, plots, statistics
from llm.evaluation import results
from llm.evaluation.results import Folder, Metric, Result
from llm.workdir import Workdir

MOST_EXAMPLES = 8
MOST_LETTERS = 300  # of a text in a table of examples
KINDS = {
    'bits_per_byte': 'Text',
    'multiple_choice': 'Multiple choice',
    'exact_match': 'Exact match',
    'minimal_pairs': 'Minimal pairs',
    'lm_eval': 'lm-evaluation-harness',
}


def write(workdir: Workdir, folder: Folder, params_sha256: str) -> pathlib.Path:
    """Writes the page of all results in a folder that are of these parameters. Returns its path.

    Raises:
        MachineError: if it cannot be written.
    """
    found = [one for one in folder.all() if one[1].get('params_sha256') == params_sha256]
    first = found[0][1] if found else {}
    context = {
        'name': workdir.config().name,
        'subtitle': f'{workdir.path.resolve().name} · step {first.get("step", 0):,}'
        + (' · averaged weights' if first.get('ema') else '')
        + f' · parameters {str(first.get("params_sha256", ""))[:12]}',
        'rows': [row for result, _, _ in found for row in _rows(result)],
        'tasks': [_task(*one) for one in found],
    }
    return pages.write_page('evaluation.html.j2', folder.path / 'evaluation.html', context)


def _rows(result: Result) -> list[dict[str, Any]]:
    rows = []
    for i, metric in enumerate(result.metrics):
        task = result.task if i == 0 else ''
        rows.append({'task': task, 'metric': metric.name.replace('_', ' '), 'cells': results.cells(metric)})
    return rows


def _task(result: Result, depends_on: dict[str, Any], samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    facts = {name: value for name, value in result.facts.items() if value is not None}
    drawn = []
    if result.reliability:
        drawn.append(_reliability(result))
    if result.groups:
        drawn.append(_groups(result))
    header, examples = _examples(result.kind, samples)
    return {
        'name': result.task,
        'kind': KINDS[result.kind],
        'cards': [_card(metric) for metric in result.metrics],
        'plots': drawn,
        'facts': pages.facts(facts),
        'bins': [_bin(row) for row in result.reliability],
        'groups': [[metric.name, *results.cells(metric)] for metric in result.groups],
        'header': header,
        'examples': examples,
        'of': len(samples),
        'folder': results.slug(result.task),
        'explanation': EXPLANATIONS[result.kind],
    }


EXPLANATIONS = {
    'bits_per_byte': 'Bits of every token over the UTF-8 bytes of the documents; the errors are over documents. The '
    'model is calibrated if the most probable next token comes as often as its probability says.',
    'multiple_choice': 'The most likely choice after the prompt. Accuracy per byte divides each log-likelihood by the '
    'bytes of its choice. The model is calibrated if the choice it gives probability p is right in p of all cases.',
    'exact_match': 'What the model writes greedily. Normalised: without case, punctuation, articles, extra spaces.',
    'minimal_pairs': 'How often the first text of a pair is the more likely one; without a preference, half the time.',
    'lm_eval': 'Measured by lm-evaluation-harness; the interval is the value plus and minus 1.96 standard errors.',
}


def _card(metric: Metric) -> tuple[str, str, str]:
    spread = f'± {results.text(metric.error)}' if metric.error is not None else ''
    return metric.name.replace('_', ' '), results.text(metric.value), spread


def _reliability(result: Result) -> Any:
    bins = result.reliability
    error = next(metric.value for metric in result.metrics if metric.name == 'calibration_error')
    title = f'{result.task}: reliability, calibration error {error:.3f}'
    intervals = [statistics.wilson_interval(row['accuracy'] * row['count'], row['count']) for row in bins]
    ours = plots.Series(
        'this model',
        [row['confidence'] for row in bins],
        [row['accuracy'] for row in bins],
        marked=True,
        band=([i.low for i in intervals], [i.high for i in intervals]),
    )
    ideal = plots.Series('calibrated', [0.0, 1.0], [0.0, 1.0], colour=1, dashed=True)
    return plots.line_plot(title, 'confidence', 'share that is right', [ours, ideal], from_zero=True)


def _groups(result: Result) -> Any:
    """The main metric by category: preferences as their distance from one half, which is none."""
    less = 0.5 if result.kind == 'minimal_pairs' else 0.0
    label = result.metrics[0].name.replace('_', ' ') + (' − 0.5' if less else '')
    spans = [
        plots.Span(f'{metric.name} ({metric.samples})', metric.value - less, metric.low - less, metric.high - less)
        for metric in result.groups
    ]
    return plots.interval_plot(f'{result.task}: by category', label, spans)


def _bin(row: dict[str, Any]) -> list[str]:
    ends = f'{row["low"]:.3f} to {row["high"]:.3f}'
    return [ends, f'{row["count"]:,}', f'{row["confidence"]:.3f}', f'{row["accuracy"]:.3f}']


def _examples(kind: str, samples: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What is worth looking at: the heading of a table, then its rows."""
    if kind == 'bits_per_byte':
        hardest = sorted((s for s in samples if s['bits_per_byte'] is not None), key=lambda s: -s['bits_per_byte'])
        rows = [[s['document'], f'{s["bytes"]:,}', f'{s["bits_per_byte"]:.3f}'] for s in hardest]
        return ['hardest documents', 'bytes', 'bits per byte'], rows[:MOST_EXAMPLES]
    if kind == 'multiple_choice':
        wrong = sorted((s for s in samples if not s['right']), key=lambda s: -s['confidence'])
        rows = [
            [
                _shown(s['prompt']),
                *(_shown(s['choices'][s[k]]) for k in ('answer', 'prediction')),
                f'{s["confidence"]:.2f}',
            ]
            for s in wrong
        ]
        return ['most confident mistakes', 'right', 'chosen', 'confidence'], rows[:MOST_EXAMPLES]
    if kind == 'exact_match':
        ordered = sorted(samples, key=lambda s: s['right'])
        rows = [
            [_shown(s['prompt']), _shown(' | '.join(s['answers'])), _shown(s['written']), 'yes' if s['right'] else 'no']
            for s in ordered
        ]
        return ['prompt', 'right', 'written', 'match'], rows[:MOST_EXAMPLES]
    if kind == 'minimal_pairs':
        ordered = sorted(samples, key=lambda s: -abs(s['logprobs'][0] - s['logprobs'][1]))
        rows = [
            [
                *(_shown(s['context'] + s[name]) for name in ('first', 'second')),
                f'{s["logprobs"][0] - s["logprobs"][1]:+.2f}',
            ]
            for s in ordered
        ]
        return ['first', 'second', 'nats, first less second'], rows[:MOST_EXAMPLES]
    rows = [[_shown(s['prompt']), _shown(s['target']), _shown(_response(s['response']))] for s in samples]
    return ['first samples', 'target', 'response'], rows[:MOST_EXAMPLES]


def _response(value: Any) -> Any:
    """What a harness task was told: texts as they are, log-likelihoods without what decoding would have written."""
    if isinstance(value, list):
        return ', '.join(str(_response(part)) for part in value if not isinstance(part, bool))
    return f'{value:.2f}' if isinstance(value, float) else value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else value[-1]['content'] if _is_chat(value) else str(value)
    return text if len(text) <= MOST_LETTERS else f'… {text[-MOST_LETTERS:]}'


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[-1], dict) and 'content' in value[-1]
