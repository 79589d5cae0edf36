"""Responses drawn from a policy, as one pure function: it runs inside a compiled step, on a mesh, under `pmap`, `vmap`.

Nothing leaves the device. A row's random numbers follow from its seed and the number of tokens it has drawn, so what
is drawn does not depend on which rows it shares a device with, and equals what `llm.inference.decode` draws from the
same seed at the same temperature.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from llm.inference.decode import next_logits, prefill
from llm.inference.prepared import prepare
from llm.model.kv_cache import KVCache
from llm.model.transformer import Transformer
from llm.tokenizer import EOS

PADDING = 0  # a token that every model knows; what it is makes no difference


class Rollout(NamedTuple):
    """Prompts with their responses.

    Attributes:
        tokens: prompt, response, padding.
        prompt_lengths: tokens of the prompt.
        lengths: tokens of prompt and response, EOS included.
        sampler_logprobs: log-probability in nats, at the sampling temperature, of each token of the response; 0
            elsewhere. `[..., t]` belongs to `tokens[..., t]`.
        ended: whether the response ends with EOS; the others were cut at the longest that is allowed.
    """

    tokens: Int[Array, 'rows length']
    prompt_lengths: Int[Array, 'rows']
    lengths: Int[Array, 'rows']
    sampler_logprobs: Float[Array, 'rows length']
    ended: Bool[Array, 'rows']


def rollout(
    model: Transformer,
    params: Any,
    prompts: Int[Array, 'prompts prompt_length'],
    prompt_lengths: Int[Array, 'prompts'],
    seeds: UInt32[Array, 'rows'],
    max_new_tokens: int,
    temperature: float | Float[Array, ''],
    *,
    stop_early: bool = True,
    end_ids: tuple[int, ...] = (EOS,),
) -> Rollout:
    """Continues each prompt until EOS, or for `max_new_tokens` tokens.

    Args:
        model, params: the policy. What is in `params` beside the transformer's own tree (heads) is left alone.
        prompts: right-padded rows.
        prompt_lengths: real tokens of each, at least 1.
        seeds: one per response. With G times as many seeds as prompts, each prompt has G responses: rows bG to
            bG + G - 1 are those to prompt b, which is read once.
        max_new_tokens: longest response, EOS included.
        temperature: positive; logits are divided by it, in sampling and in the log-probabilities reported.
        stop_early: stop when every row has ended. Under `vmap`, False is faster: a loop whose end is not the same for
            all copies has to keep the old state of those that have ended.
        end_ids: the tokens that end a response, any of them; "EOS" above.

    Returns:
        Rows of prompt_length + max_new_tokens tokens.
    """
    width = prompts.shape[1]
    samples, rest = divmod(seeds.shape[0], prompts.shape[0])
    if rest or not samples:
        raise ValueError(f'{seeds.shape[0]} seeds for {prompts.shape[0]} prompts; give each prompt as many')
    params = prepare(params, model.config)
    cache = _read(model, params, prompts, prompt_lengths, width + max_new_tokens - 1)
    last = jnp.take_along_axis(prompts, prompt_lengths[:, None] - 1, axis=1)[:, 0]  # read by the first step
    each = lambda x, axis=0: jnp.repeat(x, samples, axis=axis) if samples > 1 else x
    cache = KVCache(each(cache.keys, 1), each(cache.values, 1), each(cache.lengths))
    prompts, prompt_lengths, last = each(prompts), each(prompt_lengths), each(last)
    keys = jax.vmap(jax.random.key)(seeds)

    def step(carry):
        at, cache, token, done, drawn, logprobs = carry
        logits, cache = next_logits(model, params, cache, token, ~done)
        distribution = jax.nn.log_softmax(logits / temperature, axis=-1)
        draw = lambda key, row: jax.random.categorical(jax.random.fold_in(key, at), row)
        token = jax.vmap(draw)(keys, distribution).astype(jnp.int32)
        logprob = jnp.take_along_axis(distribution, token[:, None], axis=-1)
        drawn = jax.lax.dynamic_update_slice(drawn, jnp.where(done, PADDING, token)[:, None], (0, at))
        logprobs = jax.lax.dynamic_update_slice(logprobs, jnp.where(done[:, None], 0.0, logprob), (0, at))
        return at + 1, cache, token, done | _is_any(token, end_ids), drawn, logprobs

    unfinished = lambda carry: (carry[0] < max_new_tokens) & ~jnp.all(carry[3])
    drawn = jnp.full((seeds.shape[0], max_new_tokens), PADDING, jnp.int32)
    logprobs = jnp.zeros(drawn.shape, jnp.float32)
    start = jnp.zeros((), jnp.int32), cache, last, jnp.zeros(seeds.shape, bool), drawn, logprobs
    if stop_early:
        _, cache, _, done, drawn, logprobs = jax.lax.while_loop(unfinished, step, start)
    else:
        _, cache, _, done, drawn, logprobs = jax.lax.fori_loop(0, max_new_tokens, lambda _, carry: step(carry), start)

    # The cache has read the prompt and, of the response, all but its last token.
    lengths = cache.lengths + 1
    place = jnp.arange(width + max_new_tokens)[None, :]
    response = jnp.clip(place - prompt_lengths[:, None], 0, max_new_tokens - 1)
    inside = (place >= prompt_lengths[:, None]) & (place < lengths[:, None])
    prompts = jnp.where(place[:, :width] < prompt_lengths[:, None], prompts, PADDING)
    prompts = jnp.pad(prompts, ((0, 0), (0, max_new_tokens)), constant_values=PADDING)
    tokens = jnp.where(inside, jnp.take_along_axis(drawn, response, axis=1), prompts).astype(jnp.int32)
    logprobs = jnp.where(inside, jnp.take_along_axis(logprobs, response, axis=1), 0.0)
    return Rollout(tokens, prompt_lengths, lengths, logprobs, done)


def _is_any(token: Int[Array, 'rows'], ids: tuple[int, ...]) -> Bool[Array, 'rows']:
    return functools.reduce(operator.or_, [token == i for i in ids])


def _read(model, params, prompts, prompt_lengths, capacity) -> KVCache:
    """The cache after all of each prompt but its last token."""
    if prompts.shape[1] == 1:
        return KVCache.create(model.config, prompts.shape[0], capacity)
    return prefill(model, params, prompts[:, :-1], prompt_lengths - 1, capacity)
