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
        {'feed_forward_width': 0},
    ],
)
def test_forward_flops_are_the_matrix_products_that_the_model_runs(changes):
    model = ModelConfig(**(vars(TINY) | {'attention_backend': 'reference'} | changes))  # computes the whole square
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


MODERN = ModelConfig(
    vocab_size=24,
    context_length=32,
    num_layers=3,
    width=12,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    feed_forward_width=20,
    activation='swiglu',
    tied_embeddings=False,
    windows=(4, None),
    attention_backend='reference',
)


def test_a_modern_model_costs_what_one_counts_by_hand():
    # A layer: query 12 x 16, key and value 12 x 8, output 16 x 12; gate, up and down of 12 x 20. Head: 12 x 24.
    n = 3 * (192 + 2 * 96 + 192 + 3 * 240) + 288
    assert flops.matmul_weights(MODERN) == n == 4176
    # Windows 4, all, 4 in a row of 16: 4 + 16 + 4 keys a query in the full squares, 4 heads of size 4,
    # a multiply-add for the score and one for the weighted sum; three times that with the backward pass.
    assert flops.training_flops_per_token(MODERN, 16, '6N+attention_full') == 6 * n + 3 * 4 * 16 * (4 + 16 + 4)
    # Causal: 4 - 16 / 32 = 3.5 keys in a window of 4, 8 without.
    assert flops.training_flops_per_token(MODERN, 16, '6N+attention_causal') == 6 * n + 12 * 16 * (3.5 + 8 + 3.5)
    plain = ModelConfig(**(vars(MODERN) | {'windows': (None,), 'activation': 'gelu', 'num_kv_heads': 4}))
    n = 3 * (4 * 192 + 2 * 240) + 288
    assert flops.training_flops_per_token(plain, 16, '6N') == 6 * n
    assert flops.training_flops_per_token(plain, 16, '6N+attention_full') == 6 * n + 12 * 3 * 4 * 4 * 16


def compiled_flops(function, *arguments) -> float:
    """What the compiler counts in a program: every operation of its text once, whatever a loop repeats."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()['flops']


@pytest.mark.parametrize('changes', [{}, {'activation': 'swiglu', 'num_heads': 4, 'num_kv_heads': 2, 'head_dim': 16}])
@pytest.mark.parametrize('training', [False, True], ids=['forward', 'training'])
def test_the_compiler_counts_the_same_in_an_unrolled_model(changes, training, monkeypatch):
    """One pass over 2 rows of 64 tokens, the scan over layers unrolled.

    The compiler also counts elementwise operations (norms, softmax, activations), a few per cent at this width, and in
    training the scores that attention recomputes, which model FLOPs leave out: half of its forward pass.
    """
    import flax.linen as nn

    scan = nn.scan
    monkeypatch.setattr(nn, 'scan', lambda *args, **kwargs: scan(*args, **kwargs | {'unroll': kwargs['length']}))
    shape = {'vocab_size': 256, 'context_length': 64, 'width': 128, 'feed_forward_width': 512, 'num_layers': 3}
    model = ModelConfig(**(vars(TINY) | shape | {'attention_backend': 'reference'} | changes))
    tokens = jax.ShapeDtypeStruct((2, 64), jnp.int32)

    def loss(params, tokens):
        return Transformer(model).apply({'params': params}, tokens).logits.sum()

    function = jax.value_and_grad(loss) if training else loss
    counted = compiled_flops(function, memory.parameter_shapes(model), tokens) / (2 * 64)
    if not training:
        formula = flops.forward_flops_per_token(model, 64, '6N+attention_full')
        assert formula <= counted <= 1.06 * formula
    else:
        formula = flops.training_flops_per_token(model, 64, '6N+attention_full')
        weights = flops.training_flops_per_token(model, 64, '6N')
        scores = (formula - weights) / 3 / 2
        assert formula + scores <= 1.005 * counted and counted <= 1.08 * (formula + scores)
