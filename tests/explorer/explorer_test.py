"""What the page shows is what the model computes: every number held against the model itself, run as a whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.analysis import lens
from llm.explorer import traces as traces_module
from llm.explorer.arrays import unpacked
from llm.explorer.explorer import Explorer
from llm.explorer.kept import Kept
from llm.explorer.runs import open_runs
from llm.inference.generate import Generator
from llm.inference.sampling import SamplingParams
from llm.model.transformer import Transformer

SITES = ('residual_before', 'residual_after', 'scores', 'pattern', 'neurons', 'attention_output')
HEAD_OFF = {'kind': 'head', 'layer': 1, 'head': 2, 'scale': 0}
NEURON_TWICE = {'kind': 'neuron', 'layer': 0, 'neuron': 3, 'scale': 2}


@pytest.fixture(scope='module')
def whole(explorer):
    """A function from a trace's answer to what `lens.run` gives for its tokens."""

    @functools.cache
    def run(number, step, ids, edits):
        model = explorer.runs[number].model
        tokens = np.array([ids], np.int32)
        params = explorer.runs.params(number, step)[1]
        made = [lens.scale(model, site, factor, layers=layer, units=unit) for site, factor, layer, unit in edits]
        return lens.run(params, model, tokens, SITES, lens.combine(*made))

    return lambda trace, edits=(): run(
        trace['run'], trace['step'], tuple(token['id'] for token in trace['tokens']), tuple(edits)
    )


def close(packed, wanted, tolerance=2e-5):
    np.testing.assert_allclose(unpacked(packed), np.asarray(wanted), atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize('run', [0, 1])
def test_a_trace_taken_block_by_block_is_the_models_own_pass(ask, read, whole, run):
    trace = read(run=run)
    logits, seen = whole(trace)
    log_probs = jax.nn.log_softmax(logits[0])
    ids = [token['id'] for token in trace['tokens']]
    losses = [-log_probs[t, ids[t + 1]] for t in range(len(ids) - 1)]
    found = unpacked(trace['loss'])
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], losses, atol=1e-4)
    assert trace['bits_per_byte'] == pytest.approx(np.sum(losses) / np.log(2) / len('an apple, an apple'), rel=1e-4)
    streams = np.concatenate([seen['residual_before'][:1, 0], seen['residual_after'][:, 0]])
    close(trace['norms']['residual'], np.linalg.norm(streams, axis=-1), 1e-4)
    close(trace['norms']['attention'], np.linalg.norm(seen['attention_output'][:, 0], axis=-1), 1e-4)
    close(ask('GET', f'traces/{trace["trace"]}/logits')['logits'], logits[0, -1], 1e-4)
    pattern = ask('GET', f'traces/{trace["trace"]}/pattern', layer=1, head=2)
    close(pattern['pattern'], seen['pattern'][1, 0, 2])
    close(pattern['scores'], seen['scores'][1, 0, 2], 1e-4)
    visible = np.tril(np.ones((len(ids), len(ids))))
    if run == 1:
        visible = unpacked(pattern['visible'])
        assert visible.sum(axis=1).max() == 5  # the window of the second block
    assert ((unpacked(pattern['pattern']) > 0) <= (visible > 0)).all()
    np.testing.assert_allclose(unpacked(pattern['pattern']).sum(axis=1), 1, atol=1e-5)


def test_windows_rows_and_maps_are_parts_of_the_same_pattern(ask, read, monkeypatch):
    trace = read()
    ask = functools.partial(ask, 'GET')
    view = lambda name, **fields: ask(f'traces/{trace["trace"]}/{name}', **fields)
    all_of = unpacked(view('pattern', layer=0, head=1)['pattern'])
    np.testing.assert_array_equal(
        unpacked(view('pattern', layer=0, head=1, query=4, key=2, size=8)['pattern']), all_of[4:12, 2:10]
    )
    np.testing.assert_array_equal(unpacked(view('attends', layer=0, position=7)['pattern'])[1], all_of[7])
    whole_map = view('map', layer=0, head=1, size=5)
    assert whole_map['cell'] == 4
    np.testing.assert_array_equal(unpacked(whole_map['pattern'])[1, 0], all_of[4:8, :4].max())
    heads = view('heads', layer=0)
    np.testing.assert_allclose(unpacked(heads['first'])[1], all_of[:, 0].mean(), atol=1e-6)
    np.testing.assert_allclose(unpacked(heads['previous'])[1], np.diagonal(all_of, -1).mean(), atol=1e-6)
    np.testing.assert_allclose(unpacked(heads['thumbnails'])[1], all_of, atol=1e-6)
    monkeypatch.setattr(traces_module, 'WHOLE_PATTERNS', 0)  # as for a prompt of thousands of tokens
    np.testing.assert_allclose(unpacked(view('pattern', layer=0, head=1)['pattern']), all_of, atol=1e-6)
    np.testing.assert_allclose(unpacked(view('attends', layer=0, position=7)['pattern'])[1], all_of[7], atol=1e-6)


def test_copies_in_the_prompt_are_what_the_scores_of_heads_count(ask, read):
    distinct, repeated = (read(text)['trace'] for text in ('abcdef', 'abcabc'))
    heads = lambda trace: {n: unpacked(x) for n, x in ask('GET', f'traces/{trace}/heads', layer=0).items()}
    assert np.isnan(heads(distinct)['induction']).all() and np.isnan(heads(distinct)['duplicate']).all()
    pattern = unpacked(ask('GET', f'traces/{repeated}/pattern', layer=0, head=0)['pattern'])
    # <bos> a b c a b c: queries 4, 5, 6 have copies at 1, 2, 3, which 2, 3, 4 followed
    np.testing.assert_allclose(
        heads(repeated)['duplicate'][0], np.mean([pattern[q, q - 3] for q in (4, 5, 6)]), atol=1e-6
    )
    np.testing.assert_allclose(
        heads(repeated)['induction'][0], np.mean([pattern[q, q - 2] for q in (4, 5, 6)]), atol=1e-6
    )


def test_edits_do_what_the_same_edits_of_the_whole_model_do(ask, read, whole):
    plain, edited = read(), read(edits=[HEAD_OFF, NEURON_TWICE])
    assert edited['trace'] != plain['trace'] and edited['edits'] == [HEAD_OFF, NEURON_TWICE]
    logits, _ = whole(plain, [('head_outputs', 0.0, 1, 2), ('neurons', 2.0, 0, 3)])
    found = ask('GET', f'traces/{edited["trace"]}/logits')['logits']
    close(found, logits[0, -1], 1e-4)
    assert np.abs(unpacked(found) - whole(plain)[0][0, -1]).max() > 1e-2
    change = ask('POST', 'comparisons', left=plain['trace'], right=edited['trace'])
    before, after = (np.asarray(jax.nn.softmax(x[0, -1])) for x in (whole(plain)[0], logits))
    for one in change['next']:
        assert one['left'] == pytest.approx(before[one['token']['id']], abs=1e-5)
        assert one['right'] == pytest.approx(after[one['token']['id']], abs=1e-5)
    assert change['logit_difference']['largest'] > 1e-2


def test_the_last_stream_of_another_prompt_gives_its_logits(ask, read):
    patch = {'kind': 'patch', 'site': 'residual', 'layer': 1, 'prompt': 'another one'}
    patched, other = read(edits=[patch]), read('another one')
    assert patched['edits'][0]['position'] == patched['length'] - 1
    assert patched['edits'][0]['from_position'] == other['length'] - 1
    wanted = unpacked(ask('GET', f'traces/{other["trace"]}/logits')['logits'])
    close(ask('GET', f'traces/{patched["trace"]}/logits')['logits'], wanted)
    change = ask('POST', 'comparisons', left=patched['trace'], right=read()['trace'])
    assert (unpacked(change['divergence'])[:-1] < 1e-6).all() and unpacked(change['divergence'])[-1] > 1e-3


def test_heads_patched_one_by_one_are_their_attention_patched(ask, read):
    at = {'layer': 0, 'prompt': 'another one', 'position': 5, 'from_position': 3}
    heads = [{'kind': 'patch', 'site': 'head', 'head': h, **at} for h in range(4)]
    together = [{'kind': 'patch', 'site': 'attention', **at}]
    change = ask('POST', 'comparisons', left=read(edits=heads)['trace'], right=read(edits=together)['trace'])
    assert change['logit_difference']['largest'] < 1e-4
    change = ask('POST', 'comparisons', left=read(edits=heads)['trace'], right=read()['trace'])
    assert change['logit_difference']['largest'] > 1e-3


def test_terms_add_up_to_the_logit(ask, read):
    trace = read()['trace']
    logits = unpacked(ask('GET', f'traces/{trace}/logits', position=6)['logits'])
    found = ask('GET', f'traces/{trace}/attribution', position=6, token=100, against=105)
    assert found['logit'] == pytest.approx(logits[100] - logits[105], abs=1e-4)
    terms = [unpacked(found[name]).sum() for name in ('heads', 'attention_bias', 'feed_forward')]
    assert found['sum'] == pytest.approx(found['logit'], abs=1e-4)
    assert found['embedding'] + found['bias'] + sum(terms) == pytest.approx(found['logit'], abs=1e-4)
    neurons = ask('GET', f'traces/{trace}/attribution/neurons', layer=1, position=6, token=100, against=105, count=999)
    assert neurons['sum'] == pytest.approx(unpacked(found['feed_forward'])[1], abs=1e-4)
    assert sum(one['contribution'] for one in neurons['top']) == pytest.approx(neurons['sum'], abs=1e-4)


def test_the_lens_ends_with_the_model(ask, read):
    trace = read()
    found = ask('GET', f'traces/{trace["trace"]}/lens')
    last = ask('GET', f'traces/{trace["trace"]}/cut')['top']
    ids, probabilities = unpacked(found['ids'])[-1, -1], unpacked(found['probabilities'])[-1, -1]
    assert ids.tolist() == [one['token']['id'] for one in last[:5]]
    np.testing.assert_allclose(probabilities, [one['probability'] for one in last[:5]], rtol=1e-4)
    assert (unpacked(found['rank'])[-1] == 0).all()
    assert found['texts'][str(ids[0])] == last[0]['token']['text']


def test_neurons_promote_what_their_rows_do(ask, read, explorer):
    trace = read()['trace']
    top = ask('GET', f'traces/{trace}/neurons', layer=1, position=4, count=3)['top']
    params, model = explorer.runs.params(0, 2)[1], explorer.runs[0].model
    row = np.asarray(params['blocks']['feed_forward']['down']['kernel'][1, top[0]['neuron']])
    speaks_for = row * params['final_norm']['scale'] @ params['embedding']['table'].T
    assert top[0]['promotes'][0]['token']['id'] == int(np.argmax(speaks_for))
    assert top[0]['suppresses'][0]['logit'] == pytest.approx(float(np.min(speaks_for)), abs=1e-4)
    assert top[0]['contribution'] == pytest.approx(abs(top[0]['activation']) * np.linalg.norm(row), rel=1e-4)
    along = unpacked(ask('GET', f'traces/{trace}/neuron', layer=1, neuron=top[0]['neuron'])['activations'])
    assert along[4] == pytest.approx(top[0]['activation']) and len(along) == 19
    assert model.hidden_width > 3


def test_a_session_writes_what_generate_writes_and_replays(ask, explorer):
    sampling = {'temperature': 0.8, 'top_k': 40, 'seed': 7}
    run, params = explorer.runs[0], explorer.runs.params(0, None)[1]
    generator = Generator(Transformer(run.trained), params, run.tokenizer)
    wanted = generator.generate(['an apple'], SamplingParams(**sampling), max_new_tokens=6)[0]
    for _ in range(2):
        begun = ask('POST', 'sessions', prompt='an apple', sampling=sampling)
        first = ask('POST', f'sessions/{begun["session"]}/next', count=2)
        rest = ask('POST', f'sessions/{begun["session"]}/next', count=4)
        steps = [*first['steps'], *rest['steps']]
        assert [step['token']['id'] for step in steps] == wanted.ids[:6]
        np.testing.assert_allclose([np.log(s['model_probability']) for s in steps], wanted.logprobs[:6], atol=1e-5)
    assert all(step['milliseconds'] > 0 and 1 <= step['kept'] <= 40 for step in steps)
    assert [step['cache']['length'] for step in steps] == [9 + i for i in range(6)]
    each = 2 * 2 * 2 * 4 * 4  # keys and values, layers, key heads, head_dim, bytes
    assert steps[0]['cache']['bytes'] == 9 * each and begun['cache']['allocated'] == 64 * each
    assert rest['tokens'][-6:] == wanted.ids[:6]


def test_a_session_writes_with_the_edits_of_its_trace(ask, read):
    edits = [{'kind': 'feed_forward', 'layer': 1, 'scale': -3}, HEAD_OFF]
    first = lambda edits: ask('GET', f'traces/{read(edits=edits)["trace"]}/cut')['top'][0]
    assert first([])['token'] != first(edits)['token']
    begun = ask('POST', 'sessions', prompt='an apple, an apple', edits=edits, sampling={'temperature': 0})
    (step,) = ask('POST', f'sessions/{begun["session"]}/next')['steps']
    assert step['token'] == first(edits)['token'] and step['kept'] == 1
    assert step['model_probability'] == pytest.approx(first(edits)['probability'], rel=1e-4)


def test_a_full_context_stops_a_session(ask):
    begun = ask('POST', 'sessions', tokens=list(range(20, 80)), sampling={'seed': 1})
    done = ask('POST', f'sessions/{begun["session"]}/next', count=64)
    assert done['stopped'] in ('length', 'end') and len(done['tokens']) <= 65
    assert ask('POST', f'sessions/{begun["session"]}/next')['steps'] == []


def test_moments_are_the_traces_of_their_checkpoints(ask, read):
    for step in (1, 2):
        moment = ask('POST', 'moments', prompt='an apple, an apple', step=step, token=105)
        trace = read(step=step)
        assert moment['trace'] == trace['trace'] and moment['bits_per_byte'] == trace['bits_per_byte']
        top = ask('GET', f'traces/{trace["trace"]}/cut')['top']
        assert moment['next'][0]['token'] == top[0]['token']
        assert moment['probability'] <= top[0]['probability'] and moment['rank'] >= 0


def test_two_runs_side_by_side(ask, read):
    left, right = read(), read(run=1)
    found = ask('POST', 'comparisons', left=left['trace'], right=right['trace'])
    assert {'name': 'model.position', 'left': 'rope', 'right': 'alibi'} in found['config']
    logits = [unpacked(ask('GET', f'traces/{x["trace"]}/logits')['logits']).astype(np.float64) for x in (left, right)]
    one, other = (x - np.logaddexp.reduce(x) for x in logits)
    assert unpacked(found['divergence'])[-1] == pytest.approx(np.sum(np.exp(one) * (one - other)), rel=1e-3)
    assert unpacked(found['pattern_distance']).shape == (2, 4) and unpacked(found['pattern_distance']).min() > 0
    same = ask('POST', 'comparisons', left=left['trace'], right=left['trace'])
    assert unpacked(same['divergence']).max() == 0 and same['config'] == []
    np.testing.assert_allclose(unpacked(same['residual_cosine']), 1, atol=1e-5)


def test_what_was_dropped_is_computed_again(runs_folder):
    explorer = Explorer(open_runs([runs_folder / 'one']))
    explorer.traces._traces, explorer.traces._looks = Kept(0), Kept(0)
    ask = lambda *args, **fields: explorer.answer(*args, fields)
    trace = ask('POST', 'traces', prompt='an apple, an apple', edits=[HEAD_OFF])
    pattern = ask('GET', f'traces/{trace["trace"]}/pattern', layer=1, head=0)
    ask('POST', 'traces', prompt='something else')
    again = ask('GET', f'traces/{trace["trace"]}')
    assert again['loss'] == trace['loss']
    assert ask('GET', f'traces/{trace["trace"]}/pattern', layer=1, head=0) == pattern


def test_the_values_used_last_are_kept():
    kept = Kept(10)
    for name in 'abc':
        kept.put(name, name, 4)
    assert 'a' not in kept and kept['b'] == 'b'
    kept.put('d', 'd', 4)
    assert 'c' not in kept and 'b' in kept
    kept.put('large', 'large', 99)
    assert len(kept) == 1 and kept['large'] == 'large'


def test_every_stage_has_a_source(ask):
    stages = ask('GET', 'sources', run=1)['stages']
    assert stages['positions']['name'] == 'alibi_slopes' and stages['positions']['file'] == 'llm/model/positions.py'
    for stage in stages.values():
        assert stage['source'].lstrip('@').startswith(('def ', 'functools.', 'nn.', 'jax.')) and stage['says']
        assert stage['name'].rpartition('.')[2] in stage['source']
    assert ask('GET', 'sources')['stages']['positions']['name'] == 'apply_rope'


def test_words_of_the_vocabulary_are_found(ask):
    assert ask('GET', 'vocabulary', search='a', count=3)['tokens'][0]['text'] == 'a'
    found = ask('GET', 'neighbours', token=100, count=4)['neighbours']
    assert len(found) == 4 and found[0]['cosine'] >= found[3]['cosine'] and found[0]['token']['id'] != 100
    assert [token['id'] for token in ask('GET', 'tokens', ids='5,7')['tokens']] == [5, 7]
    assert ask('POST', 'tokenize', prompt='é')['tokens'][-1]['bytes'] == [0xA9]
    assert jnp.isfinite(found[0]['cosine'])
