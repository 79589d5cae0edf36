"""Line plots, intervals side by side, and maps, as inline SVG for our HTML pages.

Nothing is drawn in a fixed colour: text and axes take the page's own, and series the variables `--series-1` … that the
page defines for light and for dark. No pyplot, so no global state and nothing that needs a display.
"""

import io
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

NUM_COLOURS = 8  # series colours that the pages define; later series repeat them with another dash
MOST_POINTS = 600  # more than a screen can show; longer series are averaged in equal groups
_TEXT, _GRID, _SERIES = '#0a0b01', '#0a0b02', '#0a0b1{}'  # stand-ins, replaced by the page's colours below
_SETTINGS = {'svg.fonttype': 'none', 'font.family': 'sans-serif', 'font.size': 10, 'axes.unicode_minus': True}


class Series(NamedTuple):
    """One line of a plot.

    Attributes:
        name: shown in the legend when there are several.
        x: one number per point.
        y: one number per point; None or NaN leaves a gap.
        colour: from 0; series of one thing share it.
        marked: draw the points too (for few, costly measurements).
        dashed: a dashed line.
        line: join the points; without, they are only marked.
        band: lower and upper end of an interval at each point, drawn as a pale area.
        legend: whether the legend names it; of several lines of one thing, one has to.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    marked: bool = False
    dashed: bool = False
    line: bool = True
    band: tuple[Sequence[float | None], Sequence[float | None]] | None = None
    legend: bool = True

    @property
    def broken(self) -> bool:
        return self.dashed or self.colour >= NUM_COLOURS


class Span(NamedTuple):
    """One row of an interval plot.

    Attributes:
        name: at its left.
        mean: marked.
        low, high: ends of its interval; None draws none.
        points: single measurements, drawn pale.
        colour: from 0.
    """

    name: str
    mean: float
    low: float | None = None
    high: float | None = None
    points: Sequence[float] = ()
    colour: int = 0


def line_plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    x_ticks: Sequence[float] = (),
) -> Markup:
    """Draws the series over each other.

    Args:
        title: what is shown; also what a screen reader says and what makes the ids in the SVG unique, so give each plot
            of a page its own.
        x_label: with unit.
        y_label: with unit.
        series: at least one, with at least one point.
        log_x, log_y: logarithmic axes.
        from_zero: start the y axis at 0, so that noise looks as small as it is.
        x_ticks: where the x axis has ticks, if not at round numbers: where few things were measured, say.

    Returns:
        A `<figure>` with its title, an `<svg>` that scales with the page, and a legend if there are several series.
    """
    with matplotlib.rc_context(_SETTINGS | {'svg.hashsalt': title}):
        figure = Figure(figsize=(5.0, 3.0), layout='constrained')
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        for one in series:
            x, y = _thinned(one.x, one.y)
            if one.band is not None:
                low, high = (_thinned(one.x, end)[1] for end in one.band)
                colour = _SERIES.format(one.colour % NUM_COLOURS)
                axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(
                x,
                y,
                color=_SERIES.format(one.colour % NUM_COLOURS),
                linewidth=1.6,
                marker='o' if one.marked or not one.line or len(x) == 1 else None,
                markersize=3.5 if one.line else 5,
                linestyle='none' if not one.line else '--' if one.broken else '-',
            )
        _style(axes, x_label, y_label, log_x, log_y)
        if from_zero:
            axes.set_ylim(bottom=0)
        if x_ticks:
            axes.xaxis.set_major_locator(FixedLocator(sorted(set(x_ticks))))
        return _figure(figure, title, _legend(series))


def interval_plot(title: str, x_label: str, spans: Sequence[Span]) -> Markup:
    """Draws intervals below each other, about a line at 0: a forest plot.

    Args:
        title: as of `line_plot`.
        x_label: with unit.
        spans: at least one, from top to bottom.

    Returns:
        As `line_plot`, without a legend: names stand at the axis.
    """
    with matplotlib.rc_context(_SETTINGS | {'svg.hashsalt': title}):
        figure = Figure(figsize=(7.6, 0.75 + 0.42 * len(spans)), layout='constrained')
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        for row, one in enumerate(spans):
            colour = _SERIES.format(one.colour % NUM_COLOURS)
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [row, row], color=colour, linewidth=2.4)
            axes.plot(one.points, [row + 0.26] * len(one.points), 'o', color=colour, markersize=3, alpha=0.5)
            axes.plot([one.mean], [row], 'o', color=colour, markersize=7)
        _style(axes, x_label, '', False, False)
        axes.axvline(0, color=_TEXT, linewidth=1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'.replace('-', '−')))
        axes.set_yticks(range(len(spans)), [one.name for one in spans], fontsize=10)
        axes.set_ylim(len(spans) - 0.45, -0.55)
        axes.grid(False, axis='y')
        return _figure(figure, title, Markup(''))


class Cloud(NamedTuple):
    """Points of one kind on a map.

    Attributes:
        name: in the legend.
        x, y: one number per point.
        labels: one text per point, written beside it.
        colour: from 0.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str]
    colour: int = 0


def map_plot(title: str, x_label: str, y_label: str, clouds: Sequence[Cloud]) -> Markup:
    """Draws labelled points, as of vectors on a plane.

    Args:
        title: as of `line_plot`.
        x_label, y_label: what the axes are; '' where they mean nothing.
        clouds: at least one.

    Returns:
        As `line_plot`.
    """
    with matplotlib.rc_context(_SETTINGS | {'svg.hashsalt': title}):
        figure = Figure(figsize=(9.0, 6.4), layout='constrained')
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        for one in clouds:
            colour = _SERIES.format(one.colour % NUM_COLOURS)
            axes.plot(one.x, one.y, 'o', color=colour, markersize=3.5)
            for x, y, label in zip(one.x, one.y, one.labels):
                label = label.replace('$', r'\$')  # or matplotlib reads formulas
                axes.annotate(label, (x, y), (2.5, 2.5), textcoords='offset points', color=colour, fontsize=7.5)
        _style(axes, x_label, y_label, False, False)
        return _figure(figure, title, _legend([Series(c.name, c.x, c.y, colour=c.colour, line=False) for c in clouds]))


def _figure(figure: Figure, title: str, legend: Markup) -> Markup:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')))
    svg = _inline(buffer.getvalue(), title)
    return Markup('<figure><figcaption>{}</figcaption>{}{}</figure>').format(title, svg, legend)


def _legend(series: Sequence[Series]) -> Markup:
    series = [one for one in series if one.legend]
    if len(series) < 2:
        return Markup('')
    item = Markup('<li><span class="swatch{}" style="color: var(--series-{})"></span>{}</li>')
    look = lambda s: ' dot' if not s.line else ' dashed' if s.broken else ''
    items = [item.format(look(s), s.colour % NUM_COLOURS + 1, s.name) for s in series]
    return Markup('<ul class="legend">{}</ul>').format(Markup('').join(items))


def _thinned(xs: Sequence[float], ys: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.array([math.nan if v is None else v for v in values], np.float64) for values in (xs, ys))
    group = -(-len(x) // MOST_POINTS) if len(x) else 1
    if group == 1:
        return x, y
    starts = np.arange(0, len(x), group)
    sizes = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _style(axes, x_label: str, y_label: str, log_x: bool, log_y: bool) -> None:
    axes.set_xlabel(x_label, color=_TEXT)
    axes.set_ylabel(y_label, color=_TEXT)
    axes.grid(True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.spines['bottom'].set_color(_GRID)
    axes.tick_params(colors=_TEXT, length=0, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    if log_x:
        axes.set_xscale('log')
        _log_ticks(axes.xaxis)
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    if log_y:
        axes.set_yscale('log')
        _log_ticks(axes.yaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))


def _log_ticks(axis) -> None:
    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else 0
    subs = (1,) if decades > 3 else (1, 3) if decades > 2 else (1, 2, 5) if decades > 1 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())


def _tick(value: float, _position: int) -> str:
    if value != 0 and not 1e-2 <= abs(value) < 1e15:
        return f'{value:.1e}'.replace('.0e', 'e').replace('e-0', 'e−').replace('e+', 'e')
    for factor, suffix in ((1e12, ' T'), (1e9, ' B'), (1e6, ' M')):
        if abs(value) >= factor:
            return f'{value / factor:g}{suffix}'
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:g}'


def _inline(svg: str, title: str) -> Markup:
    """Leaves of matplotlib's file what an HTML page needs, with the page's font and colours."""
    svg = svg[svg.index('<svg') :].strip()
    svg = (
        re.sub(r' (?:xmlns|xmlns:xlink|width|height|version)="[^"]*"', '', svg[: svg.index('>')])
        + svg[svg.index('>') :]
    )
    svg = re.sub(r'<style type="text/css">.*?</style>|<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', '<g', svg).replace('xlink:href', 'href')  # the groups' names repeat in every plot
    svg = re.sub(r' ?font-family: [^;]*;', '', svg)
    svg = svg.replace(_TEXT, 'currentColor').replace(_GRID, 'var(--grid)')
    svg = re.sub(_SERIES.format(r'(\d)'), lambda match: f'var(--series-{int(match[1]) + 1})', svg)
    svg = re.sub(r'\n\s*', ' ', svg).replace('<g/> ', '')
    return Markup(svg.replace('<svg', Markup('<svg role="img" aria-label="{}"').format(title), 1))
