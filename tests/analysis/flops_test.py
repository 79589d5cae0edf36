import math

import jax
import jax.numpy as jnp
import pytest

from llm.analysis import flops, memory
from llm.config import ModelConfig
from llm.model import Transformer

TINY = ModelConfig(
    vocab_size=10, context_length=64, num_layers=2, width=8, num_heads=2, activation='relu', feed_forward_width=16
)


def test_a_tiny_model_costs_what_one_counts_by_hand():
    # Per layer: query, key, value, output are 8 x 8; up and down are 8 x 16. The head is 10 x 8, tied or not.
    n = 2 * (4 * 64 + 2 * 128) + 80
    assert flops.matmul_weights(TINY) == n == 1104
    assert flops.training_flops_per_token(TINY, 6, '6N') == 6 * n
    # PaLM's 12 L H Q T, with 2 layers, 2 heads of size 4 and 6 keys; a causal mask leaves half.
    assert flops.training_flops_per_token(TINY, 6, '6N+attention_full') == 6 * n + 12 * 2 * 2 * 4 * 6
    assert flops.training_flops_per_token(TINY, 6, '6N+attention_causal') == 6 * n + 6 * 2 * 2 * 4 * 6


def products(jaxpr) -> int:
    """FLOPs of every matrix product that a traced program runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        times = equation.params['length'] if equation.primitive.name == 'scan' else 1
        for value in equation.params.values():
            inner = getattr(value, 'jaxpr', value)
            if hasattr(inner, 'eqns'):
                total += times * products(inner)
    return total


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'activation': 'swiglu', 'tied_embeddings': False},
        {'num_heads': 4, 'num_kv_heads': 1, 'head_dim': 6},
        {'num_heads': 4, 'num_kv_heads': 2, 'position': 'learned', 'qk_norm': True, 'num_layers': 3},
        {'feed_forward_width': None, 'position': 'alibi', 'norm_placement': 'both', 'biases': ('query', 'norm')},
    ],
)
def test_forward_flops_are_the_matrix_products_that_the_model_runs(changes):
    model = ModelConfig(**(vars(TINY) | changes))
    tokens = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    apply = lambda params, tokens: Transformer(model).apply({'params': params}, tokens).logits
    traced = jax.make_jaxpr(apply)(memory.parameter_shapes(model), tokens)
    assert products(traced.jaxpr) == 16 * flops.forward_flops_per_token(model, 16, '6N+attention_full')


def test_sliding_windows_are_counted_layer_by_layer():
    # (4, None) over two layers of a row of 16: the full square has 4 and 16 keys a query.
    model = ModelConfig(**(vars(TINY) | {'windows': (4, None)}))
    attention = lambda convention: flops.forward_flops_per_token(model, 16, convention) - 2 * 1104
    assert attention('6N+attention_full') == 4 * 8 * (4 + 16)
    # Under the diagonal a window leaves a triangle of 4 x 4 / 2 and a band of 12 x 4: 3.5 keys a query.
    assert attention('6N+attention_causal') == 4 * 8 * (3.5 + 8)
    assert flops.attention_keys(1000, 16, causal=True) == flops.attention_keys(None, 16, causal=True)


def test_an_unknown_convention_is_refused_by_name():
    with pytest.raises(ValueError, match=r'7N.*6N\+attention_causal'):
        flops.training_flops_per_token(TINY, 16, '7N')


def test_mfu_is_the_fraction_of_all_devices_peak():
    assert flops.mfu(1000.0, 2e9, 4e12) == 0.5
    assert flops.mfu(1000.0, 2e9, 4e12, num_devices=4) == 0.125
    assert flops.mfu(1000.0, 2e9, None) is None
