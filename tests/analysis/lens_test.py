"""The lens: what it shows is what the model computed, and what it changes has the effect that arithmetic says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.analysis import lens
from llm.config import ModelConfig
from llm.errors import UserError
from llm.inference import prepared
from llm.model import Transformer, taps
from llm.model.kv_cache import KVCache

SMALL = ModelConfig(vocab_size=13, context_length=12, num_layers=2, width=16, num_heads=4, feed_forward_width=24)
ALL_BIASES = ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm')
GPT2 = {'position': 'learned', 'norm': 'layernorm', 'activation': 'gelu', 'biases': ALL_BIASES}
GEMMA2 = {
    'activation': 'geglu',
    'norm_placement': 'both',
    'norm_unit_offset': True,
    'embedding_scale': 4.0,
    'num_kv_heads': 2,
    'head_dim': 6,
    'attention_scale': 0.3,
    'attention_softcap': 2.0,
    'logit_softcap': 3.0,
    'windows': (3, None),
}
EVERYTHING = GEMMA2 | {
    'biases': (*ALL_BIASES, 'lm_head'),
    'tied_embeddings': False,
    'qk_norm': True,
    'embedding_norm': True,
    'norm': 'layernorm',
    'position': 'learned',
}
FAMILIES = {
    'llama_gqa': {'num_kv_heads': 2, 'tied_embeddings': False},
    'gpt2': GPT2,
    'gemma2': GEMMA2,
    'gemma3': {'norm_placement': 'both', 'qk_norm': True, 'windows': (2, None), 'local_rope_base': 50.0},
    'everything': EVERYTHING,
    'everything_post': EVERYTHING | {'norm_placement': 'post'},
    'original_transformer': GPT2 | {'position': 'sinusoidal', 'activation': 'relu', 'norm_placement': 'post'},
    'bloom': GPT2 | {'position': 'alibi', 'embedding_norm': True},
    'attention_only': {'feed_forward_width': 0, 'position': 'none', 'num_kv_heads': 1},
    'attention_only_post': {'feed_forward_width': 0, 'norm_placement': 'post'},
    'mup': {'parametrization': 'mup', 'base_width': 4},
}
LENGTH = 8


def make(family):
    config = dataclasses.replace(SMALL, **FAMILIES[family])
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    random = np.random.default_rng(0)
    return config, jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), x.dtype), shapes)


def tokens_of(seed):
    return np.random.default_rng(seed).integers(13, size=(2, LENGTH), dtype=np.int32)


@pytest.mark.parametrize('family', FAMILIES)
def test_contributions_add_up_to_the_logit(family):
    config, params = make(family)
    logits, activations = lens.run(params, config, tokens_of(1), lens.attribution_sites(config))
    for token, against in ((5, None), (3, 7)):
        parts = lens.direct_logit_attribution(params, config, activations, token, against)
        assert float(jnp.abs(parts.unexplained).max()) < 1e-4
        shown = parts.logit
        if config.logit_softcap is None:
            wanted = logits[..., token] - (0 if against is None else logits[..., against])
            npt.assert_allclose(shown, wanted, atol=1e-4)
        elif against is None:
            npt.assert_allclose(config.logit_softcap * jnp.tanh(shown / config.logit_softcap), logits[..., token], atol=1e-4)
