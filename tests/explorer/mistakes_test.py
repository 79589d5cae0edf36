"""What is asked wrongly ends in one line, on the page and on the command line."""

import dataclasses
import json

import pytest
from tiny_runs import MODEL, make_run

from llm.command_line import main
from llm.config import Masked, RewardModel, TokenizerConfig
from llm.errors import UserError
from llm.explorer.explorer import NotFound
from llm.tokenizer import train

ONE_LINE = r'^[^\n]*$'
LONG = 'x' * 64  # with <bos> one token more than the context


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'prompt': LONG}, "the prompt has 65 tokens and the model's context is 64; shorten the prompt"),
        ({'prompt': '\ud800'}, 'the prompt is not UTF-8 text'),
        ({'prompt': 'x' * 300_000}, 'the prompt has 300000 bytes; the most is 262144'),
        ({}, 'give either prompt, a text, or tokens, a list of ids'),
        ({'prompt': 'a', 'tokens': [1]}, 'give either prompt'),
        ({'prompt': 7}, 'prompt must be a text'),
        ({'tokens': []}, 'the prompt has no tokens'),
        ({'tokens': [1, 272]}, 'the prompt has token id 272; the model knows 0 to 271'),
        ({'tokens': [1, 2.5]}, 'tokens must be a list of whole numbers'),
        ({'prompt': 'a', 'run': 2}, 'there is no run 2; there are 2, from 0'),
        ({'prompt': 'a', 'run': True}, 'run must be a whole number'),
        ({'prompt': 'a', 'step': 3}, 'one has no checkpoint 3; it has 1, 2'),
        ({'prompt': 'a', 'stpe': 3}, "there is no field 'stpe' here"),
        ({'prompt': 'a', 'edits': 'none'}, 'edits must be a list'),
        ({'prompt': 'a', 'edits': [7]}, 'edits must be an object'),
        ({'prompt': 'a', 'edits': [{'kind': 'brain'}]}, "there is no edit 'brain'; there are head"),
        (
            {'prompt': 'a', 'edits': [{'kind': 'head', 'layer': 2, 'head': 0}]},
            'there is no layer 2; give one from 0 to 1',
        ),
        (
            {'prompt': 'a', 'edits': [{'kind': 'head', 'layer': 0, 'head': 4}]},
            'there is no head 4; give one from 0 to 3',
        ),
        ({'prompt': 'a', 'edits': [{'kind': 'head', 'layer': 0}]}, 'edits.head is missing'),
        (
            {'prompt': 'a', 'edits': [{'kind': 'head', 'layer': 0, 'head': 1, 'scale': 'no'}]},
            'edits.scale must be a num',
        ),
        (
            {'prompt': 'a', 'edits': [{'kind': 'attention', 'layer': 0, 'scale': 1e9}]},
            'scale is 1e+09; give one from -1e+06 to 1e+06',
        ),
        ({'prompt': 'a', 'edits': [{'kind': 'neuron', 'layer': 0, 'neuron': -1}]}, 'there is no neuron -1'),
        (
            {'prompt': 'a', 'edits': [{'kind': 'patch', 'site': 'residual', 'layer': 0, 'prompt': 'b', 'position': 9}]},
            'there is no position 9; give one from 0 to 1',
        ),
        (
            {'prompt': 'a', 'edits': [{'kind': 'patch', 'site': 'residual', 'layer': 0, 'prompt': LONG}]},
            'the prompt has 65 tokens',
        ),
        ({'prompt': 'a', 'edits': [{'kind': 'attention', 'layer': 0}] * 257}, '257 edits are more than 256'),
    ],
)
def test_traces(ask, fields, message):
    with pytest.raises(UserError, match=ONE_LINE) as said:
        ask('POST', 'traces', **fields)
    assert message in str(said.value)


@pytest.mark.parametrize(
    ('path', 'fields', 'message'),
    [
        ('heads', {'layer': '2'}, 'there is no layer 2; give one from 0 to 1'),
        ('heads', {'layer': '-1'}, 'there is no layer -1'),
        ('heads', {'layer': 'top'}, "layer is 'top'; it must be a whole number"),
        ('heads', {}, 'layer is missing'),
        ('pattern', {'layer': '0', 'head': '9'}, 'there is no head 9'),
        ('pattern', {'layer': '0', 'head': '0', 'query': '99'}, 'there is no query 99'),
        ('pattern', {'layer': '0', 'head': '0', 'size': '9999'}, 'size is 9999; give one from 1 to 256'),
        ('neurons', {'layer': '0', 'position': '99'}, 'there is no position 99'),
        ('neurons', {'layer': '0', 'count': '0'}, 'count is 0'),
        ('neuron', {'layer': '0', 'neuron': '64'}, 'there is no neuron 64'),
        ('lens', {'from': '3', 'to': '2'}, 'to must be more than from'),
        ('lens', {'token': '272'}, 'there is no token 272'),
        ('attribution', {'token': '272'}, 'there is no token 272'),
        ('attribution', {'token': str(10**30)}, 'token is too large a number'),
        ('logits', {'position': '0', 'layer': '1'}, "there is no field 'layer' here"),
        ('cut', {'temperature': '-1'}, 'temperature is -1.0; it must be at least 0'),
        ('cut', {'top_p': 'nan'}, 'top_p must be a number'),
    ],
)
def test_views(ask, read, path, fields, message):
    with pytest.raises(UserError, match=ONE_LINE) as said:
        ask('GET', f'traces/{read()["trace"]}/{path}', **fields)
    assert message in str(said.value)


def test_what_is_not_there(ask, read):
    for method, path in (
        ('GET', 'nothing'),
        ('GET', 'traces/0123'),
        ('GET', 'traces/0123/heads'),
        ('POST', 'models'),
        ('GET', f'traces/{read()["trace"]}/nothing'),
        ('POST', 'sessions/0123/next'),
    ):
        with pytest.raises(NotFound):
            ask(method, path)
    patch = {'kind': 'patch', 'site': 'residual', 'layer': 0, 'prompt': 'b'}
    with pytest.raises(UserError, match='a patch names a position'):
        ask('POST', 'sessions', prompt='a', edits=[patch])
    with pytest.raises(UserError, match='seed is'):
        ask('POST', 'sessions', prompt='a', sampling={'seed': -1})
    with pytest.raises(UserError, match='of different tokens'):
        ask('POST', 'comparisons', left=read('a')['trace'], right=read('b')['trace'])


@pytest.fixture
def refused(capsys, monkeypatch):
    """A function from a command line to the one line that is said."""
    monkeypatch.delenv('GLASSBOX_SERVE_TOKEN', raising=False)

    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr()
        assert said.out == '' and said.err.startswith('error: ') and said.err.count('\n') == 1
        return said.err

    return refused


def test_runs_that_cannot_be_shown(refused, runs_folder, tmp_path):
    for command in (('explore', '--port', '0'), ('explain', '--prompt', 'a', '--out', tmp_path / 'a.html')):
        assert 'there is no workdir' in refused(*command, '--workdir', tmp_path / 'none')
        assert 'is not a workdir' in refused(*command, '--workdir', tmp_path)
        assert 'has no checkpoint yet' in refused(*command, '--workdir', runs_folder / 'empty')
    tokenizer = train(TokenizerConfig(kind='bpe'), 300, ['some other words to learn from'] * 9)
    model = dataclasses.replace(MODEL, vocab_size=300)
    other = make_run(tmp_path / 'bpe', model, tokenizer=tokenizer)
    said = refused('explore', '--port', '0', '--workdir', runs_folder / 'one', '--workdir', other)
    assert 'have different tokenizers' in said
    masked = make_run(tmp_path / 'masked', steps=(), objective=Masked())
    assert 'this page' in refused('explore', '--port', '0', '--workdir', masked)
    reward = make_run(tmp_path / 'reward', steps=(), objective=RewardModel())
    assert 'is a reward model' in refused('explain', '--workdir', reward, '--prompt', 'a', '--out', tmp_path / 'a.html')
    assert '--workdir is missing' in refused('explore')
    assert 'not UTF-8 text' in refused(
        'explore', '--port', '0', '--workdir', runs_folder / 'one', '--prompt', 'a\udcff'
    )
    assert 'set a token' in refused('explore', '--workdir', runs_folder / 'one', '--host', '0.0.0.0')


def test_explain_refuses_in_one_line_and_writes_nothing(refused, runs_folder, tmp_path):
    out = tmp_path / 'page.html'
    explain = lambda prompt, *more: refused('explain', '--workdir', runs_folder / 'one', '--prompt', prompt, *more)
    assert 'the prompt has 65 tokens' in explain(LONG, '--out', out)
    assert 'is not UTF-8 text' in explain('a\udcff', '--out', out)
    assert 'has no checkpoint 3' in explain('a', '--out', out, '--step', 3)
    assert 'its folder does not exist' in explain('a', '--out', tmp_path / 'none' / 'page.html')
    assert 'it is a folder' in explain('a', '--out', tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_explain_goes_on_without_an_older_checkpoint_that_is_damaged(tmp_path, capsys):
    run, out = make_run(tmp_path / 'run', steps=(1, 2)), tmp_path / 'page.html'
    for path in (run / 'checkpoints' / '1').rglob('*'):
        if path.is_file() and path.name != 'manifest.json':
            path.write_bytes(b'')
    assert main(['explain', '--workdir', f'{run}', '--prompt', 'a', '--out', f'{out}']) == 0
    capsys.readouterr()
    assert '"step":2' in out.read_text()


def test_explain_writes_what_the_page_asks_for(runs_folder, tmp_path, capsys):
    prompt = 'a </script><!-- b'
    out = tmp_path / 'page.html'
    assert main(['explain', '--workdir', f'{runs_folder}/one', '--prompt', prompt, '--out', f'{out}']) == 0
    assert str(out) in capsys.readouterr().out and list(tmp_path.iterdir()) == [out]
    page = out.read_text()
    _, _, rest = page.partition('window.GLASSBOX_DATA = ')
    data = json.loads(rest.partition(';</script>')[0])
    assert data['start'] == {'run': 0, 'step': 2, 'prompt': prompt}
    body = json.dumps({'edits': [], 'prompt': prompt, 'run': 0, 'step': 2}, separators=(',', ':'))
    trace = data['responses'][f'POST /api/traces {body}']
    base = f'GET /api/traces/{trace["trace"]}'
    for question in (
        'heads?layer=1',
        'pattern?head=3&key=0&layer=1&query=0&size=128',
        f'neurons?count=12&layer=0&position={trace["length"] - 1}',
        f'lens?count=5&from=0&to={trace["length"]}',
        'block?layer=0&position=0',
    ):
        assert f'{base}/{question}' in data['responses']
    (steps,) = (value for name, value in data['responses'].items() if name.endswith('/next {"count":1}'))
    assert len(steps['steps_in_file']) == 16 or steps['steps_in_file'][-1]['stopped'] == 'end'
    assert page.count('<script') == 2 and 'src=' not in page.partition('<script')[0]
    assert "default-src 'none'" in page and '\nimport ' not in page and '\nexport ' not in page
