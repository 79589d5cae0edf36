import html
import re
import xml.etree.ElementTree

from llm.analysis import plots
from llm.analysis.plots import Series


def draw(*series, title='Loss', **options):
    figure = plots.line_plot(title, 'step', 'nats', list(series), **options)
    xml.etree.ElementTree.fromstring(figure)  # well formed, so that it cannot break the page around it
    return figure


def test_colours_are_the_pages_own():
    figure = draw(Series('a', [1, 2], [3, 4], colour=0), Series('b', [1, 2], [4, 3], colour=4))
    assert 'stroke: var(--series-1)' in figure
    assert 'stroke: var(--series-5)' in figure
    assert 'currentColor' in figure
    assert not re.search('#[0-9a-f]{6};', figure)


def test_a_plot_refers_to_nothing_outside_itself():
    figure = draw(Series('a', [1, 2], [3, 4], marked=True))
    assert 'http' not in figure
    ids = set(re.findall(r' id="([^"]*)"', figure))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', figure)) <= ids


def test_two_plots_of_a_page_share_no_ids():
    one, other = (draw(Series('a', [1, 2], [3, 4], marked=True), title=title) for title in ('one', 'other'))
    ids = [set(re.findall(r' id="([^"]*)"', figure)) for figure in (one, other)]
    assert ids[0] and not ids[0] & ids[1]


def test_names_are_escaped_and_never_read_as_formulas():
    figure = draw(Series('<b>$x^', [1], [1]), Series('_hidden', [1], [2], colour=1), title='<script>')
    assert '&lt;b&gt;$x^' in figure and '_hidden' in figure
    assert '<script>' not in figure and '<b>' not in figure


def test_one_series_needs_no_legend_and_many_are_told_apart():
    assert 'legend' not in draw(Series('a', [1, 2], [3, 4]))
    figure = draw(*[Series(f'run {i}', [1, 2], [i + 1, i + 2], colour=i) for i in range(plots.NUM_COLOURS + 1)])
    swatches = re.findall('class="(swatch[^"]*)" style="([^"]*)"', figure)
    assert len(set(swatches)) == plots.NUM_COLOURS + 1


def path(figure):
    return re.search(r'<path d="([^"]*)"[^>]*stroke: var\(--series-1\)', figure)[1]


def test_gaps_stay_gaps():
    assert path(draw(Series('a', [1, 2, 3, 4, 5], [1, 2, None, 2, 1]))).count('M') == 2


def test_a_long_series_is_averaged_and_keeps_its_shape():
    x = list(range(120_000))
    y = [float(i % 2) for i in x]
    figure = draw(Series('a', x, y), from_zero=True)
    assert len(figure) < 60_000
    points = re.findall(r'[ML] (\S+) (\S+)', path(figure))
    heights = {round(float(height)) for _, height in points}
    assert len(heights) == 1  # the mean of 0 and 1 everywhere


def test_an_interval_is_a_pale_area_of_the_series_colour():
    figure = draw(Series('a', [1, 2, 3], [3, 4, 5], colour=2, band=([2, 3, None], [4, 5, None])))
    assert re.search(r'fill: var\(--series-3\); fill-opacity: 0\.16', figure)


def test_lines_of_one_thing_share_a_name_in_the_legend():
    lines = [Series('a', [1, 2], [i, i], legend=i == 0) for i in range(3)]
    figure = draw(*lines, Series('b', [1, 2], [5, 5], colour=1))
    assert len(re.findall('<li>', figure)) == 2


def test_a_map_writes_every_label_as_it_is():
    labels = ['a$b$c', '<b>', '_x', 'self']
    clouds = [plots.Cloud('one', [0, 1, 2, 3], [3, 1, 2, 0], labels), plots.Cloud('two', [1], [1], ['&'], colour=2)]
    drawn = plots.map_plot('A map', '', '', clouds)
    shown = html.unescape(''.join(re.findall(r'<text[^>]*>([^<]*)</text>', drawn)))
    assert all(label in shown for label in [*labels, '&']) and '<b>' not in drawn
    assert 'var(--series-1)' in drawn and 'var(--series-3)' in drawn and drawn.count('class="swatch dot"') == 2
