import html
import html.parser
import re

import pytest

from llm.analysis.report import write_report
from llm.workdir import Workdir

BASELINES = {'gzip -9, each file': 2.5, 'xz -9, each file': 2.25, 'xz -9, all files as one': 1.75}


class Page(html.parser.HTMLParser):
    """Collects a page's text, its tags and everything it would fetch; checks that tags are closed."""

    def __init__(self, source):
        super().__init__()
        self.text, self.fetched, self.tags, self.open = '', [], [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ('src', 'href', 'srcset', 'action')]
        if tag not in ('meta', 'br'):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ('src', 'href', 'srcset', 'action')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + ' '


@pytest.fixture
def report(make_workdir):
    def write(*args, arguments=None, **kwargs):
        path = write_report(make_workdir(*args, **kwargs), **(arguments or {}))
        return path.read_text(encoding='utf-8')

    return write


def test_the_numbers_are_those_of_the_run(report):
    page = Page(report(loss=1.5, arguments={'baselines': BASELINES}))
    text = ' '.join(page.text.split())
    for label, value in {
        'held-out loss': '1.5000',
        'perplexity': '4.48',  # e^1.5
        'bits per byte': '0.7500',
        'training loss': '1.5333',  # the last row's 1.5 + 1/30
        'parameters': '7.65 M',
        'tokens trained on': '122,880',
        'training time': '7.50 s',
        'tokens per second': '16,384',
        'training FLOPs': '30.0 GFLOP',
        'duplicates dropped': '3',
        'gzip -9, each file': '2.500',
    }.items():
        assert f'{label} {value}' in text, label
    assert '0.30 of what gzip -9 needs' in text


def test_bars_are_as_long_as_the_numbers(report):
    page = report(loss=1.5, arguments={'baselines': BASELINES})
    widths = dict(zip(['gzip', 'xz', 'xz all', 'model'], re.findall(r'class="bar" style="width: ([\d.]+)%', page)))
    assert widths == {'gzip': '100.0', 'xz': '90.0', 'xz all': '70.0', 'model': '30.0'}


def test_nothing_is_fetched_and_nothing_runs(report):
    page = Page(report(arguments={'baselines': BASELINES}))
    assert 'svg' in page.tags
    assert not {'script', 'link', 'img', 'iframe'} & set(page.tags)
    assert all(reference.startswith('#') for reference in page.fetched)


def test_what_the_model_and_the_user_wrote_is_escaped(report):
    evil = '</pre><script>alert(1)</script>'
    sample = {'kind': 'sample', 'step': 30, 'attempt': 1, 'prompt': 'p"<', 'text': evil}
    event = {'kind': 'event', 'step': 5, 'attempt': 1, 'event': 'resume', 'message': evil}
    arguments = {
        'baselines': {evil: 1.0},
        'prompt': evil,
        'probabilities': [(evil, 0.5)],
        'tokenisation': [(evil, 17, evil.encode())],
    }
    summary = {'message': evil, 'data': {evil: evil}, 'environment': {evil: evil}}
    source = report(extra_rows=[sample, event], summary=summary, arguments=arguments)
    page = Page(source)
    assert 'script' not in page.tags
    assert page.text.count(evil) >= 9  # everywhere it was put, and as it was written


def test_a_lone_surrogate_in_a_prompt_does_not_lose_the_report(report):
    assert 'caf?' in report(arguments={'prompt': 'caf\udce9', 'probabilities': [('x', 1.0)]})


def test_probabilities_and_tokens_are_shown_with_their_numbers(report):
    source = report(
        arguments={
            'prompt': 'import numpy as ',
            'probabilities': [('np', 0.8215), ('n', 0.05)],
            'tokenisation': [('<bos>', 1, b''), ('caf', 300, b'caf'), ('\\n', 26, b'\n')],
        }
    )
    assert 'width: 82.15%' in source and '0.822' in source
    assert 'title="id 300: bytes 63 61 66"' in source
    assert 'title="id 1: special token"' in source
    assert '4 bytes in 3 tokens: 1.33 bytes per token' in source


def test_sections_without_data_are_left_out(report, tmp_path):
    full = report(arguments={'probabilities': [('np', 0.8)], 'tokenisation': [('a', 1, b'a')]})
    assert all(
        f'<section id="{name}">' in full for name in ('curves', 'probabilities', 'tokens', 'data', 'environment')
    )
    assert '<section id="events">' not in full and '<section id="samples">' not in full
    started = Workdir(tmp_path / 'started')
    started.path.mkdir()
    started.write_config(Workdir(tmp_path / 'run').config())
    bare = write_report(started).read_text()
    sections = re.findall('<section id="(.*?)">', bare)
    assert sections == ['results', 'data', 'model', 'config']


def test_many_samples_are_thinned_and_said_so(report):
    samples = [
        {'kind': 'sample', 'step': step, 'attempt': 1, 'prompt': 'a', 'text': f'sample {step}'} for step in range(50)
    ]
    source = report(extra_rows=samples)
    shown = [int(step) for step in re.findall(r'sample (\d+)</pre>', source)]
    assert len(shown) == 8 and shown[0] == 0 and shown[-1] == 49
    assert '8 of 50' in source


def test_every_field_of_the_config_is_there_and_changes_are_marked(report):
    source = html.unescape(report())
    changed = re.findall(r'<tr class="changed"><th class="mono">(.*?)</th>', source)
    assert set(changed) == {'model.vocab_size', 'model.num_layers', 'model.width', 'model.num_heads', 'training.steps'}
    assert '<td class="mono">["python_stdlib"]</td>' in source


def test_the_headline_says_how_much_has_a_twin_in_training(make_workdir):
    workdir = make_workdir(loss=1.5)
    summary = workdir.summary()
    overlap = {'run_length': 64, 'tokens': 10, 'fraction': 0.1407, 'documents': 2}
    workdir.write_summary(summary | {'data': summary.get('data', {}) | {'overlap': overlap}})
    text = ' '.join(Page(write_report(workdir, baselines=BASELINES).read_text()).text.split())
    assert '14.1% of their tokens lie in runs of 64 or more' in text
    workdir.write_summary(summary | {'data': summary.get('data', {}) | {'overlap': overlap | {'fraction': 0.0}}})
    text = ' '.join(Page(write_report(workdir, baselines=BASELINES).read_text()).text.split())
    assert 'of their tokens lie in runs' not in text
