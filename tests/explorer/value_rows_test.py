"""The tokens of a neuron are those that the library says, with the norms that its row passes on the way."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_runs import MODEL, make_run

from llm.analysis import memories
from llm.explorer.explorer import Explorer
from llm.explorer.runs import open_runs


@pytest.mark.parametrize(
    'placement', [pytest.param('pre', marks=pytest.mark.slow), 'both', pytest.param('post', marks=pytest.mark.slow)]
)
def test_favourites_are_those_of_the_library(tmp_path, placement):
    model = dataclasses.replace(MODEL, norm_placement=placement)
    explorer = Explorer(open_runs([make_run(tmp_path / placement, model)]), 'a')
    params = explorer.runs.params(0, None)[1]
    uneven = lambda path, leaf: (
        leaf * np.linspace(0.1, 3, leaf.shape[-1], dtype=np.float32) if path[-1].key == 'scale' else leaf
    )
    params.update(jax.tree_util.tree_map_with_path(uneven, dict(params)))
    trace = explorer.answer('POST', 'traces', {'prompt': 'abc'})['trace']
    found = explorer.answer('GET', f'traces/{trace}/neuron', {'layer': 0, 'neuron': 3})
    ids, logits = memories.promoted(params, explorer.runs[0].model, 0, [3], 10)
    assert [one['token']['id'] for one in found['promotes']] == ids[0].tolist()
    np.testing.assert_allclose([one['logit'] for one in found['promotes']], logits[0], rtol=1e-5)
