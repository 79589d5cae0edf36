"""The report of a run: one HTML page for people, from what the run left in its workdir."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from llm import config_json, runtime
from llm.analysis import flops, measures, memory, pages, plots, units
from llm.config import Config
from llm.workdir import Workdir

MOST_SAMPLES = 8


def write_report(
    workdir: Workdir,
    *,
    baselines: Mapping[str, float] | None = None,
    prompt: str = '',
    probabilities: Sequence[tuple[str, float]] = (),
    tokenisation: Sequence[tuple[str, int, bytes]] = (),
) -> pathlib.Path:
    """Writes `report.html` into the workdir from its config, metrics and summary, and what the arguments add.

    A section without data is left out.

    Args:
        workdir: of a run, finished or not.
        baselines: bits per byte of other compressors on the same held-out documents, see `baselines.compressors`.
        prompt: what `probabilities` continue.
        probabilities: (piece, probability) of the most likely next tokens.
        tokenisation: (piece, id, bytes) of a sentence's tokens, in order.

    Returns:
        The page's path.

    Raises:
        UserError: if the workdir cannot be read.
        MachineError: if the page cannot be written.
    """
    config, summary = runtime.stored_config(workdir), workdir.summary()
    train, evaluation = workdir.rows('train'), workdir.rows('evaluation')
    held_out = summary.get('held_out', {})
    kind = config.objective.kind
    samples = workdir.rows('sample')
    context = {
        'name': config.name,
        'status': summary.get('status', 'running'),
        'message': summary.get('message', ''),
        'subtitle': _subtitle(workdir, config, summary, train),
        'headline': _headline(kind, held_out, baselines or {}),
        'overlap': summary.get('data', {}).get('overlap'),
        'bars': _bars(held_out, baselines or {}),
        'cards': _cards(config, summary, train, evaluation),
        'plots': _plots(kind, train, evaluation, baselines or {}),
        'samples': [_sample(row) for row in _spread(samples, MOST_SAMPLES)],
        'samples_total': len(samples),
        'prompt': prompt,
        'probabilities': _probabilities(probabilities),
        'tokens': [_token(*token) for token in tokenisation],
        'tokens_summary': _tokens_summary(tokenisation),
        'data': pages.facts({'corpora': list(config.data.corpora)} | summary.get('data', {})),
        'parameters': _parameters(config),
        'flops': _flops(config, summary.get('tokens', 0)),
        'memory': memory_rows(config),
        'events': workdir.rows('event'),
        'config': _config(config, workdir.config()),
        'environment': _environment(summary),
    }
    return pages.write_page('report.html.j2', workdir.path / 'report.html', context)


def memory_rows(config: Config) -> list[tuple[str, str]]:
    """(what, size) of the predicted memory, the total last."""
    estimate = memory.memory_estimate(config)
    rows = [(name.replace('ema', 'EMA'), units.size(value)) for name, value in estimate.parts().items() if value]
    return [*rows, ('total', units.size(estimate.total))]


def _subtitle(workdir: Workdir, config: Config, summary: dict, train: list[dict]) -> str:
    step = summary.get('step', train[-1]['step'] if train else 0)
    return f'step {step:,} of {config.training.steps:,} · {workdir.path.resolve().name}'


def _headline(kind: str, held_out: dict, baselines: Mapping[str, float]) -> str:
    if kind not in ('next_token', 'distillation'):
        return measures.sentence(kind, held_out)
    if 'bits_per_byte' not in held_out:
        return ''
    ours = f'{held_out["bits_per_byte"]:.3f} bits per byte on held-out documents'
    if not baselines:
        return ours
    name, value = next(iter(baselines.items()))
    return f'{ours}, {held_out["bits_per_byte"] / value:.2f} of what {name.partition(",")[0]} needs'


def _bars(held_out: dict, baselines: Mapping[str, float]) -> list[dict[str, Any]]:
    if 'bits_per_byte' not in held_out:
        return []
    values = dict(baselines)
    names = sorted([*values, 'this model'], key=lambda n: -values.get(n, held_out['bits_per_byte']))
    values['this model'] = held_out['bits_per_byte']
    if 'ema_bits_per_byte' in held_out:
        names.insert(names.index('this model') + 1, 'its averaged weights')
        values['its averaged weights'] = held_out['ema_bits_per_byte']
    most = max(values.values())
    return [
        {
            'name': name,
            'value': f'{values[name]:.3f}',
            'width': f'{100 * values[name] / most:.1f}',
            'ours': name not in baselines,
        }
        for name in names
    ]


def _cards(config: Config, summary: dict, train: list[dict], evaluation: list[dict]) -> list[tuple[str, str, str]]:
    held_out = summary.get('held_out') or (evaluation[-1] if evaluation else {})
    last = train[-1] if train else {}
    bytes_read = (
        f'{held_out["bytes"]:,} bytes in {held_out["documents"]:,} documents'
        if held_out.get('documents') and 'bytes' in held_out
        else ''
    )
    waited = summary.get('data_wait_fraction', last.get('data_wait_fraction'))
    trained = summary.get('trained_parameters')
    cards = [
        *(
            (m.name, held_out.get(m.key), m.form, m.unit or bytes_read)
            for m in measures.MEASURES[config.objective.kind]
        ),
        ('training loss', last.get('loss'), '{:.4f}', f'at step {last.get("step", 0):,}'),
        ('parameters', summary.get('parameters'), units.count, ''),
        ('of them trained', trained if trained != summary.get('parameters') else None, units.count, 'adapters'),
        ('tokens trained on', summary.get('tokens', last.get('tokens')), units.count, ''),
        ('training time', summary.get('seconds', last.get('seconds')), units.duration, 'without evaluation and saving'),
        ('first step', summary.get('first_step_seconds'), units.duration, 'tracing and compiling included'),
        ('waiting for data', waited if (waited or 0) > 0.01 else None, '{:.1%}', 'of the training time'),
        ('tokens per second', summary.get('tokens_per_second', last.get('tokens_per_second')), '{:,.0f}', ''),
        ('training FLOPs', summary.get('flops', last.get('flops')), units.flops, flops.DEFAULT_CONVENTION),
        ('MFU', last.get('mfu'), '{:.1%}', flops.DEFAULT_CONVENTION),
    ]
    show = lambda form, value: form.format(value) if isinstance(form, str) else form(value)
    return [(label, show(form, value), note) for label, value, form, note in cards if value is not None]


def _plots(kind: str, train: list[dict], evaluation: list[dict], baselines: Mapping[str, float]) -> list:
    def column(rows, name):
        return [row.get(name) for row in rows]

    def series(name, rows, y, x='step', **look):
        return plots.Series(name, column(rows, x), column(rows, y), **look)

    averaged = any('ema_loss' in row for row in evaluation)
    look = {'colour': 2, 'marked': True, 'dashed': True}
    drawn, curves = [], []
    if train:
        curves.append(series('training', train, 'loss'))
    if evaluation and 'loss' in evaluation[-1]:
        curves.append(series('held out', evaluation, 'loss', colour=1, marked=True))
    if averaged:
        curves.append(series('held out, averaged weights', evaluation, 'ema_loss', **look))
    if kind in measures.PLOTS:
        drawn += [plot for row in measures.PLOTS[kind] if (plot := _objective_plot(*row, train, evaluation))]
    if curves:
        unit = 'nats per token' if kind in ('next_token', 'distillation', 'sft') else 'what is minimised'
        positive = all((row.get('loss') or 0) > 0 for row in (*train, *evaluation))
        drawn.append(plots.line_plot('Loss', 'step', unit, curves, log_y=positive))
    if evaluation and 'bits_per_byte' in evaluation[-1]:
        curves = [series('held out', evaluation, 'bits_per_byte', colour=1, marked=True)]
        if averaged:
            curves.append(series('held out, averaged weights', evaluation, 'ema_bits_per_byte', **look))
        ends = [0, max(row['step'] for row in evaluation)]
        for colour, (name, value) in enumerate(baselines.items(), start=3):
            curves.append(plots.Series(name, ends, [value, value], colour=colour, dashed=True))
        drawn.append(plots.line_plot('Held-out bits per byte', 'step', 'bits per byte', curves))
    if train:
        for title, name, x, x_label, y_label in (
            ('Learning rate', 'learning_rate', 'step', 'step', 'learning rate'),
            ('Gradient norm', 'grad_norm', 'step', 'step', 'global norm'),
            ('Throughput', 'tokens_per_second', 'seconds', 'seconds of training', 'tokens per second'),
            ('Model FLOPs utilisation', 'mfu', 'seconds', 'seconds of training', 'MFU'),
        ):
            if any(row.get(name) is not None for row in train):
                curves = [series(title, train, name, x)]
                drawn.append(plots.line_plot(title, x_label, y_label, curves, from_zero=x == 'seconds'))
    return drawn


def _objective_plot(title: str, unit: str, keys: Sequence[str], train: list[dict], evaluation: list[dict]) -> Any:
    """One plot of an objective's own measures, in training and held out; None if they were never measured."""
    curves = []
    for colour, key in enumerate(keys):
        for side, rows in (('training', train), ('held out', evaluation)):
            if any(row.get(key) is not None for row in rows):
                name = ' '.join([*([key.rpartition('/')[2].replace('_', ' ')] if len(keys) > 1 else []), side])
                x, y = [row['step'] for row in rows], [row.get(key) for row in rows]
                held_out = side == 'held out'
                curves.append(plots.Series(name, x, y, colour=2 * colour + held_out, marked=held_out, dashed=held_out))
    return plots.line_plot(title, 'step', unit, curves) if curves else None


def _spread(rows: list[dict], most: int) -> list[dict]:
    """At most that many of the rows, evenly spaced, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _sample(row: dict) -> dict[str, str]:
    return {'step': f'{row["step"]:,}', 'prompt': row['prompt'], 'text': row['text'].removeprefix(row['prompt'])}


def _probabilities(probabilities: Sequence[tuple[str, float]]) -> list[dict[str, str]]:
    return [{'piece': piece, 'value': f'{p:.3f}', 'width': f'{100 * p:.2f}'} for piece, p in probabilities]


def _token(piece: str, token_id: int, token_bytes: bytes) -> dict[str, Any]:
    title = f'id {token_id}: ' + (f'bytes {token_bytes.hex(" ")}' if token_bytes else 'special token')
    return {'piece': piece, 'id': token_id, 'title': title, 'ends_line': token_bytes.endswith(b'\n')}


def _tokens_summary(tokenisation: Sequence[tuple[str, int, bytes]]) -> str:
    if not tokenisation:
        return ''
    num_bytes = sum(len(token_bytes) for _, _, token_bytes in tokenisation)
    count = len(tokenisation)
    return f'{num_bytes:,} bytes in {count:,} tokens: {num_bytes / count:.2f} bytes per token.'


def _parameters(config: Config) -> list[dict[str, Any]]:
    table = memory.parameter_table(config.model)
    total = sum(row.count for row in table)
    rows = [
        {
            'part': row.part,
            'shape': ' × '.join(map(str, row.shape)),
            'count': f'{row.count:,}',
            'share': f'{row.count / total:.1%}',
            'total': False,
        }
        for row in table
    ]
    return [*rows, {'part': 'total', 'shape': '', 'count': f'{total:,}', 'share': '', 'total': True}]


def _flops(config: Config, tokens: int) -> list[dict[str, str]]:
    rows = []
    for convention in flops.CONVENTIONS:
        per_token = flops.flops_per_text_token(config, convention)
        rows.append(
            {'convention': convention, 'per_token': units.flops(per_token), 'total': units.flops(per_token * tokens)}
        )
    return rows


def _config(config: Config, asked: Config) -> list[dict[str, Any]]:
    """Every field as it ran, marked where the user asked for something else than the default."""
    changed = config_json.difference(asked, Config())
    flat = config_json.flatten(config)
    return [{'name': n, 'value': json.dumps(v, ensure_ascii=False), 'changed': n in changed} for n, v in flat.items()]


def _environment(summary: dict) -> list[tuple[str, str]]:
    names = ('attention_backend', 'code_version', 'config_hash', 'identity_hash', 'params_sha256')
    return pages.facts(summary.get('environment', {}) | {name: summary.get(name) for name in names})
