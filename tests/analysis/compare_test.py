import re

import pytest

from llm.analysis import compare
from llm.config import AdamW, Muon
from llm.errors import MachineError, UserError


def test_only_what_differs_is_listed(make_workdir):
    a = make_workdir('a', optimizer=AdamW(learning_rate=1e-3), seed=0)
    b = make_workdir('b', optimizer=Muon(learning_rate=1e-3), seed=1)
    difference = compare.config_difference(compare.open_runs([a.path, b.path]))
    assert difference['seed'] == ['0', '1']
    assert difference['optimizer.kind'] == ['"adamw"', '"muon"']
    assert difference['optimizer.momentum'] == [compare.ABSENT, '0.95']
    assert 'optimizer.learning_rate' not in difference and 'model.width' not in difference
    sections = [name.split('.')[0] for name in difference]
    assert sections == sorted(sections, key=['name', 'seed', 'optimizer'].index)  # together, in the config's order


def test_the_table_holds_the_runs_numbers(make_workdir):
    a, b = make_workdir('a', loss=1.5), make_workdir('b', loss=2.0, summary={'status': 'interrupted'})
    table = compare.text_table(compare.open_runs([a.path, b.path]))
    cells = {line.split()[0]: re.split(r'\s{2,}', line) for line in table.splitlines() if line[:2] in ('a ', 'b ')}
    assert cells['a'][1:] == [
        *('done', '30', '7.65 M', '122,880', '1.5333', '1.5000', '4.48', '0.7500', '16,384', '7.50 s'),
    ]
    assert cells['b'][1] == 'interrupted' and cells['b'][6] == '2.0000'


def test_equal_configs_are_said_to_be_equal(make_workdir):
    a, b = make_workdir('x/run'), make_workdir('y/run')
    b.write_config(a.config())
    runs = compare.open_runs([a.path, b.path])
    assert 'The configs are equal.' in compare.text_table(runs)
    assert [run.label for run in runs] == ['x/run', 'y/run']  # as much of the path as tells them apart


def test_the_page_shows_every_run_and_fetches_nothing(make_workdir, tmp_path):
    names = ['a', 'b<script>', 'c']
    runs = compare.open_runs([make_workdir(name, loss=1 + i).path for i, name in enumerate(names)])
    page = compare.write_comparison(runs, tmp_path / 'compare.html').read_text()
    assert '<script' not in page and 'b&lt;script&gt;' in page
    assert all(reference.startswith('#') for reference in re.findall(r'(?:src|href)="([^"]*)"', page))
    figures = re.findall('<figure>.*?</figure>', page, flags=re.DOTALL)
    titles = [re.search('<figcaption>(.*?)</figcaption>', figure)[1] for figure in figures]
    assert {'Training loss by step', 'Training loss by tokens', 'Training loss by compute', 'Throughput'} <= set(titles)
    assert all(f'stroke: var(--series-{i})' in figure for figure in figures for i in (1, 2, 3))
    assert re.search(r'<td class="number best">0.5000</td>', page)  # the lowest bits per byte


def test_a_run_without_results_yet_is_shown_with_dashes(make_workdir):
    a, b = make_workdir('a'), make_workdir('b')
    b.metrics_file.unlink()
    (b.path / 'summary.json').unlink()
    runs = compare.open_runs([a.path, b.path])
    assert set(runs[1].measured().values()) == {None}
    assert f'b    {compare.ABSENT}' in compare.text_table(runs)


def test_evaluations_stand_between_the_steps_around_them(make_workdir):
    rows = [{'kind': 'evaluation', 'step': 25, 'attempt': 1, 'loss': 2.0, 'bits_per_byte': 1.0, 'tokens': 1}]
    a, b = make_workdir('a', extra_rows=rows), make_workdir('b')
    run = compare.open_runs([a.path, b.path])[0]
    assert compare._at(run, 'tokens') == [25 * 4096, 30 * 4096]


def test_mistakes_are_named(make_workdir, tmp_path):
    a = make_workdir('a').path
    with pytest.raises(UserError, match='at least two'):
        compare.open_runs([a])
    with pytest.raises(UserError, match=r'no workdir .*nowhere'):
        compare.open_runs([a, tmp_path / 'nowhere'])
    with pytest.raises(UserError, match='named twice'):
        compare.open_runs([a, a / '..' / 'a'])
    runs = compare.open_runs([a, make_workdir('b').path])
    with pytest.raises(UserError, match='no folder'):
        compare.write_comparison(runs, tmp_path / 'no' / 'page.html')
    with pytest.raises(MachineError, match='cannot write'):
        compare.write_comparison(runs, tmp_path)
