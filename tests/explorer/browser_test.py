"""The page in a browser: typed at, stepped, slid, edited and compared, and what it shows held against the server."""

import asyncio
import contextlib
import dataclasses
import functools
import re
import threading

import chromium
import numpy as np
import pytest
from tiny_runs import MODEL, make_run

from llm.explorer import server as explorer_server
from llm.explorer import static
from llm.explorer.app import Service
from llm.explorer.arrays import unpacked
from llm.explorer.explorer import Explorer
from llm.explorer.runs import open_runs
from llm.inference.sampling import SamplingParams, next_token_distribution, stack
from llm.serving import server as server_lib
from llm.serving.guard import Guard

pytestmark = pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or '')

PROMPT = 'an apple, an apple'
VIEWS = ('follow', 'lens', 'attribution', 'edit', 'training', 'compare')


@contextlib.contextmanager
def served(explorer, token=None):
    """The address of a server in a thread."""
    listening = server_lib.listen('127.0.0.1', 0)
    stop, ready = threading.Event(), threading.Event()
    guard = functools.partial(Guard, token=token)
    serving = explorer_server.serve(Service(explorer), guard, listening, stop.is_set, ready.set)
    thread = threading.Thread(target=asyncio.run, args=(serving,))
    thread.start()
    try:
        assert ready.wait(60)
        yield server_lib.url(listening)
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope='module')
def site(explorer):
    with served(explorer) as url:
        yield url


@pytest.fixture(scope='module')
def launched():
    with chromium.browser() as launched:
        yield launched


@pytest.fixture
def page(launched, site):
    with chromium.opened(launched, site) as page:
        follow(page, PROMPT)
        yield page


def follow(page, prompt):
    """Types a prompt and waits until its tokens are there."""
    page.wait_for_selector('#view .card')
    page.fill('#prompt', prompt)
    page.press('#prompt', 'Control+Enter')
    page.wait_for_function('text => window.glassbox().prompt === text', arg=prompt)
    settled(page)


def settled(page):
    """Waits until no part of the view waits for an answer."""
    page.wait_for_function('() => !document.querySelector("#view [aria-busy]")')


def go(page, stage):
    page.evaluate('stage => window.glassbox.change({stage, view: "follow"})', stage)
    settled(page)


def shown(page):
    """The trace that is shown, as the page knows it."""
    return page.evaluate('() => { const s = window.glassbox(); return {trace: s.trace.trace, position: s.position}; }')


def test_a_prompt_is_typed_and_every_view_opens(page):
    assert page.locator('#view .chip').count() == len(PROMPT) + 1
    for view in VIEWS:
        page.click(f'#tab-{view}')
        settled(page)
        assert page.locator('.trouble').count() == 0, view


@pytest.mark.slow
def test_type_and_step_through_every_stage(page):
    stages = ['Tokens', 'Embedding', 'Position']
    stages += [f'Block {layer}: {part}' for layer in (0, 1) for part in ('attention', 'feed-forward')]
    stages += ['Residual stream and final norm', 'Logits', 'Probabilities and the sampler’s cut', 'Next token']
    for stage in stages:
        page.wait_for_function('name => document.querySelector("#view h2").textContent === name', arg=stage)
        settled(page)
        assert page.locator('.trouble').count() == 0
        page.click('#step')
    page.wait_for_function('before => window.glassbox().trace.length === before + 2', arg=len(PROMPT))


@pytest.mark.slow
def test_the_map_says_the_servers_numbers_at_the_keyboard(page, ask):
    go(page, 'attention:1')
    page.evaluate('window.glassbox.change({head: 2})')
    page.wait_for_selector('.attends .bar-row-one')
    page.focus('.attention-map > .map canvas')
    page.keyboard.press('ArrowRight')  # the last query, the first key
    answer = ask('GET', f'traces/{shown(page)["trace"]}/pattern', layer=1, head=2, query=0, key=0, size=128)
    weight, score = unpacked(answer['pattern'])[-1, 0], unpacked(answer['scores'])[-1, 0]
    said = page.inner_text('.attention-map > .map .map-says').replace('−', '-')
    found = re.search(r'score (\S+), weight (\S+)', said)
    assert float(found[1]) == pytest.approx(score, rel=0.01)
    assert float(found[2]) == pytest.approx(weight, rel=0.01, abs=1e-4)
    page.keyboard.press('ArrowUp')
    page.keyboard.press('End')
    for _ in PROMPT:
        page.keyboard.press('ArrowRight')
    assert 'hidden by the mask' in page.inner_text('.attention-map > .map .map-says')


@pytest.mark.slow
def test_a_token_shows_its_bytes_and_its_neighbours(page, ask):
    page.hover('#view .chip >> nth=1')
    page.wait_for_selector('#token-card:not([hidden]) .near')
    card = page.inner_text('#token-card')
    token = ask('GET', f'traces/{shown(page)["trace"]}')['tokens'][1]
    near = ask('GET', 'neighbours', run=0, step=2, token=token['id'], count=8)['neighbours']
    assert f'id {token["id"]}' in card and '61' in card  # the byte of the letter a
    assert all(one['token']['text'] in card for one in near)
    page.keyboard.press('Escape')
    assert page.is_hidden('#token-card')
    page.focus('.strip')
    page.keyboard.press('Home')
    page.keyboard.press('ArrowRight')
    page.wait_for_function('() => window.glassbox().position === 1')


@pytest.mark.slow
def test_the_cut_is_the_samplers(page):
    """The browser's own arithmetic against llm/inference/sampling.py, on logits with ties."""
    random = np.random.default_rng(0)
    logits = np.round(random.normal(0, 3, 300), 1).astype(np.float32)
    seen = [3, 5, 8, 8]
    settings = [
        SamplingParams(),
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.7, top_k=7),
        SamplingParams(top_p=0.8),
        SamplingParams(temperature=1.5, top_k=40, top_p=0.9, min_p=0.05),
        SamplingParams(min_p=0.2, repetition_penalty=1.4),
        SamplingParams(temperature=0.0, repetition_penalty=2.0),
        SamplingParams(top_k=1),
    ]
    mask = np.zeros((len(settings), 300), bool)
    mask[:, seen] = True
    wanted = next_token_distribution(np.tile(logits, (len(settings), 1)), mask, stack(settings))
    script = """async ([logits, seen, settings]) => {
        const { distribution } = await import('./core/sampler.js');
        return settings.map((one) => { const cut = distribution(Float32Array.from(logits), seen, one);
            return { after: [...cut.after], kept: cut.kept }; });
    }"""
    plain = [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in settings]
    for found, row in zip(page.evaluate(script, [logits.tolist(), seen, plain]), np.asarray(wanted), strict=True):
        np.testing.assert_allclose(found['after'], row, atol=1e-5)
        assert found['kept'] == np.count_nonzero(row)


@pytest.mark.slow
def test_sliders_act_at_once(page, ask):
    go(page, 'probabilities')
    page.fill('#slider-temperature', '35')
    page.fill('#slider-top_p', '50')
    page.fill('#slider-top_k', '40')
    page.wait_for_function('() => window.glassbox().sampling.top_k > 1')
    sampling = page.evaluate('window.glassbox().sampling')
    now = shown(page)
    names = ('temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty')
    cut = ask('GET', f'traces/{now["trace"]}/cut', position=now['position'], **{name: sampling[name] for name in names})
    page.wait_for_function(
        'kept => document.querySelector(".fact-list dd").firstChild.textContent === String(kept)', arg=cut['kept']
    )
    best = f'{cut["top"][0]["probability"] * 100:.3g}'[:3]
    assert page.inner_text('.bars .bar-note >> nth=0').startswith(best)


@pytest.mark.slow
def test_draw_and_replay(page):
    go(page, 'next')
    page.fill('#seed', '11')
    page.press('#seed', 'Tab')
    for drawn in (1, 2, 3):
        page.click('#draw')
        page.wait_for_function('n => window.glassbox().session?.steps.length === n', arg=drawn)
        page.wait_for_function('n => window.glassbox().trace.length === n', arg=len(PROMPT) + 1 + drawn)
    cache = page.evaluate('window.glassbox().session.cache')
    assert cache['length'] > len(PROMPT) + 1 and cache['bytes'] == cache['length'] * cache['bytes_per_token']
    page.wait_for_selector('#replay:not([disabled])')
    page.click('#replay')
    page.wait_for_selector('text=Replayed: the same 3 tokens came out.')


@pytest.mark.slow
def test_switch_a_head_off_and_see(page, ask):
    plain = shown(page)['trace']
    page.click('#tab-edit')
    page.fill('#edit-layer', '1')
    page.click('.head-switch >> nth=2')
    page.wait_for_selector('table.pairs')
    now = shown(page)
    assert now['trace'] != plain
    answer = ask('POST', 'comparisons', left=plain, right=now['trace'], position=now['position'])
    cells = page.locator('table.pairs tbody tr >> nth=0').locator('td.number').all_inner_texts()
    first = answer['next'][0]
    change = (first['right'] - first['left']) * 100
    assert float(cells[2].split()[0].replace('−', '-')) == pytest.approx(change, abs=0.06)
    assert page.get_attribute('.head-switch >> nth=2', 'aria-pressed') == 'false'
    page.click('#undo-all')
    page.wait_for_function('one => window.glassbox().trace.trace === one', arg=plain)


@pytest.mark.slow
def test_patch_from_another_prompt(page):
    page.click('#tab-edit')
    page.click('summary:has-text("Patch")')
    page.fill('#patch-prompt', 'an orange')
    page.click('#patch-apply')
    page.wait_for_selector('table.pairs')
    assert 'an orange' in page.inner_text('.edits')
    # The stream that leaves block 0 at the last token is another one, so what follows is another thing.
    assert page.inner_text('table.pairs tbody tr >> nth=0').count('0.00 pp') == 0


@pytest.mark.slow
def test_across_training(page, ask):
    page.click('#tab-training')
    page.wait_for_selector('text=2 checkpoints.')
    page.focus('#moment')
    page.keyboard.press('ArrowLeft')
    page.wait_for_selector('.step-title:has-text("step 1")')
    then = ask('POST', 'traces', prompt=PROMPT, run=0, step=1)
    best = ask('POST', 'moments', prompt=PROMPT, run=0, step=1)['next'][0]
    assert best['token']['text'] in page.inner_text('#view .bar-name >> nth=0')
    page.click('text=Follow the prompt there')
    page.wait_for_function('one => window.glassbox().trace.trace === one', arg=then['trace'])


@pytest.mark.slow
def test_side_by_side(page):
    page.click('#tab-compare')
    page.wait_for_selector('table.pairs')
    text = page.inner_text('#view')
    assert 'other' in text and 'alibi' in text and 'Attention patterns' in text


@pytest.mark.slow
def test_one_line_for_what_cannot_be(launched, site):
    with chromium.opened(launched, site, refused=(400,)) as page:
        follow(page, PROMPT)
        page.fill('#prompt', 'x' * 500)
        page.press('#prompt', 'Control+Enter')
        page.wait_for_selector('.ask-trouble .trouble')
        said = page.inner_text('.ask-trouble .trouble')
        assert '64' in said and '\n' not in said.strip() and 'Traceback' not in said
        assert page.inner_text('#view h2') == 'Tokens'  # what was there stays


@pytest.mark.slow
def test_a_token_is_asked_for(launched, explorer):
    with served(explorer, 'a long enough token') as url:
        with chromium.opened(launched, url, refused=(401,)) as page:
            page.fill('input[type=password]', 'a long enough token')
            page.keyboard.press('Enter')
            page.wait_for_selector('#view .card')
        with chromium.opened(launched, f'{url}#token=a%20long%20enough%20token') as page:
            page.wait_for_selector('#view .card')
            assert 'token' not in page.url


@pytest.mark.slow
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_phone_needs_no_sideways_scrolling(launched, site, scheme):
    with chromium.opened(launched, site, chromium.PHONE, scheme) as page:
        follow(page, PROMPT)
        for view in VIEWS:
            page.evaluate('view => window.glassbox.change({view})', view)
            settled(page)
            assert page.evaluate('document.documentElement.scrollWidth') <= 390, view
        for stage in ('embedding', 'positions', 'attention:0', 'feed_forward:1', 'stream', 'logits', 'probabilities'):
            go(page, stage)
            assert page.evaluate('document.documentElement.scrollWidth') <= 390, stage
        colour = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert (max(map(int, re.findall(r'\d+', colour))) < 60) == (scheme == 'dark')


@pytest.mark.slow
def test_all_controls_have_names(page):
    """What a screen reader would say of every control in every view is something."""
    script = """() => {
        const named = (one) => one.getAttribute('aria-label') || one.innerText?.trim() || one.labels?.length;
        const all = 'button, select, input, textarea, [role=application], [role=listbox], [role=grid]';
        return [...document.querySelectorAll(all)].filter((one) => one.checkVisibility() && !named(one))
            .map((one) => one.outerHTML.slice(0, 100));
    }"""
    for view in VIEWS:
        page.click(f'#tab-{view}')
        settled(page)
        assert page.evaluate(script) == [], view
    for stage in ('attention:0', 'feed_forward:0', 'probabilities', 'next'):
        go(page, stage)
        assert page.evaluate(script) == [], stage


@pytest.mark.slow
def test_the_static_file_shows_the_same_and_asks_for_nothing(launched, explorer, page, tmp_path):
    static.write(explorer, PROMPT, 2, tmp_path / 'page.html')
    asked = []
    with chromium.opened(launched, (tmp_path / 'page.html').as_uri()) as file:
        file.on('request', lambda request: asked.append(request.url))
        file.wait_for_selector('#view .chip')
        for stage in (
            'tokens',
            'embedding',
            'positions',
            'attention:1',
            'feed_forward:0',
            'stream',
            'logits',
            'probabilities',
        ):
            go(page, stage)
            go(file, stage)
            assert file.locator('.trouble, .absent').count() == 0, stage
            # The live page measures the time of its reading; all else is the same.
            assert file.inner_text('#view .stage') == page.inner_text('#view .stage'), stage
        for view in ('lens', 'attribution', 'training'):
            file.click(f'#tab-{view}')
            settled(file)
            assert file.locator('.trouble, .absent').count() == 0, view
        go(file, 'next')
        file.click('#draw')
        file.wait_for_selector('table.drawn')
        file.click('#tab-compare')
        file.wait_for_selector('.absent:has-text("Not in this file")')
    assert asked == []


@pytest.mark.slow
@pytest.mark.parametrize(('layers', 'tokens'), [(128, 20), (2, 2000)])
def test_many_layers_and_long_prompts_stay_usable(launched, tmp_path, layers, tokens):
    model = dataclasses.replace(MODEL, num_layers=layers, context_length=max(64, tokens + 8))
    explorer = Explorer(open_runs([make_run(tmp_path / 'large', model)]), 'def ')
    with served(explorer) as url, chromium.opened(launched, url) as page:
        follow(page, ('a line of text\n' * 200)[: tokens - 1])
        assert page.evaluate('() => window.glassbox().trace.length') == tokens
        for stage in ('tokens', f'attention:{layers - 1}', 'stream', 'next'):
            go(page, stage)
            assert page.locator('.trouble').count() == 0, stage
            assert page.evaluate("document.querySelectorAll('*').length") < 2500, stage
        for view in VIEWS:
            page.click(f'#tab-{view}')
            settled(page)
            assert page.locator('.trouble').count() == 0, view
            assert page.evaluate("document.querySelectorAll('*').length") < 6000, view
        page.focus('.strip')
        for key, position in (('Home', 0), ('PageDown', min(16, tokens - 1)), ('End', tokens - 1)):
            page.keyboard.press(key)
            page.wait_for_function('at => window.glassbox().position === at', arg=position)
            assert page.is_visible('.strip-chip[aria-selected=true]')


KINDS = {
    'attention only, learned positions': {'feed_forward_width': 0, 'position': 'learned'},
    'norms behind, no positions': {'norm_placement': 'post', 'position': 'none', 'norm': 'layernorm'},
    'a window, sines, capped logits, one head': {
        'position': 'sinusoidal',
        'windows': (4,),
        'num_heads': 1,
        'num_kv_heads': 1,
        'logit_softcap': 5.0,
        'tied_embeddings': False,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_other_kinds_of_model(launched, tmp_path, kind):
    model = dataclasses.replace(MODEL, **KINDS[kind])
    explorer = Explorer(open_runs([make_run(tmp_path / 'run', model, steps=(1, 2))]), 'def ')
    with served(explorer) as url, chromium.opened(launched, url) as page:
        follow(page, PROMPT)
        for _ in range(page.locator('.stage-choice option').count()):
            settled(page)
            assert page.locator('.trouble').count() == 0, page.inner_text('#view h2')
            page.click('#step')
        page.wait_for_function('before => window.glassbox().trace.length === before', arg=len(PROMPT) + 2)
        for view in VIEWS:
            page.click(f'#tab-{view}')
            settled(page)
            assert page.locator('.trouble').count() == 0, view


@pytest.mark.slow
def test_it_runs_by_itself_and_stops(page):
    page.click('#run')
    page.wait_for_function('() => window.glassbox().session?.steps.length === 1')
    page.wait_for_function('() => window.glassbox().stage === "embedding"')  # with the drawn token, from the start
    page.click('#run')
    where = page.evaluate('window.glassbox().stage')
    page.wait_for_timeout(2500)
    assert page.evaluate('window.glassbox().stage') == where
    assert 'of 64 tokens' in page.inner_text('.rail-cache')
