"""The page: what the model and other programs made of text and of pictures, and what it takes to win."""

import math
import pathlib
from typing import Any

from experiments.compression import images
from llm.analysis import pages, plots, units
from llm.analysis.plots import Series

HERE = pathlib.Path(__file__).parent
MODEL = 'the model'
BYTES_A_PARAMETER = 2  # bfloat16, which is what it multiplies in


def write(out: pathlib.Path, found: dict[str, Any]) -> pathlib.Path:
    """Draws `report.html` into a folder."""
    text, pictures = found['text'], found['images']
    context = {
        'subtitle': _subtitle(found),
        'cards': _cards(text, pictures),
        'text': text,
        'text_rows': [_text_row(text, row) for row in text['rows']],
        'weights': units.size(text['parameters'] * BYTES_A_PARAMETER),
        'weights_bits': f'{_weights_bits(text):.2f}',
        'pays': pays(text),
        'streams': _streams(text),
        'pictures': pictures,
        'picture_rows': [_picture_row(row) for row in pictures['rows']],
        'picture_weights': units.size(pictures['parameters'] * BYTES_A_PARAMETER),
        'seeds': ', '.join(f'{value:.3f}' for value in pictures['by_seed']),
        'shown': _shown(pictures),
        'places': images.data_uri(pictures['cost_of_places'], max(pictures['cost_of_places'])),
        'dearest_place': f'{max(pictures["cost_of_places"]):.2f}',
        'facts': pages.facts({key: value for key, value in found.items() if key not in ('text', 'images')}),
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, folder=HERE)


def summary(found: dict[str, Any]) -> str:
    """The tables, for a terminal."""
    text, pictures = found['text'], found['images']
    header = ['held-out text', 'as one, bits/byte', 'each file', 'kB/s there', 'and back']
    rows = [_text_row(text, row)[:5] for row in text['rows']]
    other = ['held-out digits', 'bits per pixel', '95% over pictures']
    return '\n\n'.join(
        (
            units.table(header, rows),
            f'With its weights ({units.size(text["parameters"] * BYTES_A_PARAMETER)}) counted, the model needs '
            f'{_weights_bits(text):.2f} bits per byte more: it {pays(text)}.',
            units.table(other, [_picture_row(row) for row in pictures['rows']]),
        )
    )


def break_even(text: dict[str, Any]) -> float:
    """Bytes of such text from which the archives and the weights are smaller than the best other program's archives.

    Of the programs that do not know the training text: that would have to be counted too.
    """
    saved = (_best_other(text)['together'] - _row(text, MODEL)['together']) / text['bytes']
    return text['parameters'] * BYTES_A_PARAMETER / saved if saved > 0 else float('inf')


def pays(text: dict[str, Any]) -> str:
    """From where on the model is worth its weights, in words."""
    size, best = break_even(text), _best_other(text)['name']
    return f'never pays against {best}' if math.isinf(size) else f'pays from {units.size(size)} of text on ({best})'


def _best_other(text: dict[str, Any]) -> dict[str, Any]:
    ignorant = [row for row in text['rows'] if row['name'] != MODEL and 'knowing' not in row['name']]
    return min(ignorant, key=lambda row: row['together'])


def _row(text: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in text['rows'] if row['name'] == name)


def _weights_bits(text: dict[str, Any]) -> float:
    return 8 * text['parameters'] * BYTES_A_PARAMETER / text['bytes']


def _subtitle(found: dict[str, Any]) -> str:
    text, made = found['text'], found['made on']
    return (
        f'{text["run"]}, step {text["step"]:,}, {units.count(text["parameters"])} parameters · {text["files"]} '
        f'held-out files, {units.size(text["bytes"])} · {made["cores"]} cores ({made["processor"]})'
    )


def _cards(text: dict[str, Any], pictures: dict[str, Any]) -> list[tuple[str, str, str]]:
    model, best = _row(text, MODEL), _best_other(text)
    of_pictures = {row['name']: row['bits_per_pixel'] for row in pictures['rows']}

    def size(name, row):
        times = f'{text["bytes"] / row["together"]:.1f} times smaller'
        return f'text, {name}', f'{8 * row["together"] / text["bytes"]:.3f}', f'bits per byte; {times}'

    return [
        size(MODEL, model),
        size(best['name'], best),
        ('speed, both ways', ', '.join(units.digits(speed, 2) for speed in model['kB_per_second']), 'kB a second'),
        ('weights', units.size(text['parameters'] * BYTES_A_PARAMETER), pays(text)),
        ('digits, the model', f'{of_pictures[MODEL]:.2f}', 'bits per pixel'),
        ('digits, PNG', f'{of_pictures["PNG, all in one picture"]:.2f}', 'bits per pixel, all in one'),
    ]


def _text_row(text: dict[str, Any], row: dict[str, Any]) -> list[str]:
    together, apart = (8 * row[key] / text['bytes'] for key in ('together', 'apart'))
    counted = units.digits(together + _weights_bits(text)) if row['name'] == MODEL else ''
    if 'knowing' in row['name']:
        counted = units.digits(together + 8 * text['training_bytes'] / text['bytes'])
    return [
        row['name'],
        f'{together:.3f}',
        f'{apart:.3f} ± {row["error"]:.3f}',
        *(units.digits(speed) for speed in row['kB_per_second']),
        counted or f'{together:.3f}',
    ]


def _streams(text: dict[str, Any]) -> list[Any]:
    tried = text['streams']
    x = [one['streams'] for one in tried]
    plot = lambda title, label, key: plots.line_plot(
        title, 'streams', label, [Series(title, x, [one[key] for one in tried], marked=True)], log_x=True, x_ticks=x
    )
    return [
        plot('Size by streams', 'bits per byte', 'bits_per_byte'),
        plot('Speed by streams', 'kB a second', 'kB_per_second'),
    ]


def _picture_row(row: dict[str, Any]) -> list[str]:
    ends = row['interval']
    return [row['name'], f'{row["bits_per_pixel"]:.3f}', '' if ends is None else f'{ends[0]:.3f} to {ends[1]:.3f}']


def _shown(pictures: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Pictures as (name of the row, [(picture, bytes)])."""
    return [
        (name, [(images.data_uri(one['picture'], images.SHADES - 1), f'{one["bits"] / 8:.1f}') for one in chosen])
        for name, chosen in pictures['shown'].items()
    ]
