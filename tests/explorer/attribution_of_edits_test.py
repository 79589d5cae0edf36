"""A logit of an edited model is a sum over what its parts still wrote."""

import numpy as np
import pytest

from llm.explorer.arrays import unpacked

TOKEN = 100


@pytest.mark.parametrize(
    'edit',
    [
        {'kind': 'attention', 'layer': 0, 'scale': 0},
        {'kind': 'attention', 'layer': 1, 'scale': 0.5},
        {'kind': 'feed_forward', 'layer': 0, 'scale': 2},
        {'kind': 'head', 'layer': 1, 'head': 2, 'scale': 0},
        {'kind': 'patch', 'site': 'attention', 'layer': 0, 'prompt': 'other text'},
        {'kind': 'patch', 'site': 'residual', 'layer': 0, 'prompt': 'other text'},
        {'kind': 'patch', 'site': 'residual', 'layer': 0, 'prompt': 'other text', 'position': 2},
    ],
)
def test_terms_of_an_edited_model_add_up(ask, read, edit):
    trace = read(edits=[edit])['trace']
    found = ask('GET', f'traces/{trace}/attribution', token=TOKEN)
    terms = [unpacked(found[name]).sum() for name in ('heads', 'attention_bias', 'feed_forward')]
    assert sum(terms) + found['embedding'] + found['bias'] + found['patched'] == pytest.approx(found['logit'], abs=1e-4)
    assert found['sum'] == pytest.approx(found['logit'], abs=1e-4)
    neurons = ask('GET', f'traces/{trace}/attribution/neurons', layer=0, token=TOKEN)
    assert neurons['sum'] == pytest.approx(unpacked(found['feed_forward'])[0], abs=1e-4)
    patched = edit.get('site') in ('attention', 'residual') and 'position' not in edit
    assert (found['patched'] != 0) == patched
    if edit == {'kind': 'attention', 'layer': 0, 'scale': 0}:
        assert not np.any(unpacked(found['heads'])[0])
    if edit.get('site') == 'residual' and patched:  # nothing is left of what was written before
        assert found['embedding'] == 0 and not np.any(unpacked(found['heads'])[0])
