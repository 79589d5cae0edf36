"""`benchmark decode`: the prompt read at once (prefill), then token after token in the compiled loop of generation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm.analysis import flops
from llm.benchmark import models, program
from llm.benchmark.measure import measure
from llm.benchmark.options import Decode
from llm.benchmark.result import Case
from llm.config import Config
from llm.errors import UserError
from llm.inference import decode, sampling
from llm.model import Transformer
from llm.model.dtypes import activation_dtype
from llm.training.train_state import create_state


def dtypes(options: Decode) -> tuple[str, ...]:
    return tuple({named.config.model.compute_dtype for named in _configs(options)})


def _configs(options: Decode) -> list[models.Named]:
    """Without a batch of its own, a model is read from at batch 1 and 16."""
    return models.configs(options if options.batch else dataclasses.replace(options, batch=(1, 16)))


def plan(options: Decode) -> list[tuple[str, Callable[[], list[Case]]]]:
    """Every model at every length of the prompt; each gives two cases, prefill and decode."""
    planned = []
    for _, config, _ in _configs(options):
        longest = config.model.context_length - options.new_tokens + 1
        if longest < 1:
            raise UserError(
                f'--new-tokens is {options.new_tokens}; {config.name} has a context of {config.model.context_length}'
            )
        for context in options.context or (longest // 2,):
            if not 2 <= context <= longest:
                raise UserError(
                    f'--context is {context}; with {options.new_tokens} new tokens it must be in [2, {longest}], '
                    f'because {config.name} has a context of {config.model.context_length}'
                )
            model, batch = config.model, config.training.batch_size
            name = f'{config.name} L{model.num_layers} W{model.width} B{batch} context {context} {model.compute_dtype}'
            settings = {'repeats': options.repeats, 'warmup': options.warmup, 'seed': options.seed}
            run = functools.partial(decode_cases, name, config, context, options.new_tokens, **settings)
            planned.append((name, run))
    return planned


def decode_cases(
    name: str, config: Config, context: int, new_tokens: int, *, repeats: int, warmup: int, seed: int = 0
) -> list[Case]:
    """Prefill of `context - 1` tokens a row (the last one is read by the first step), then `new_tokens` steps.

    Tokens are drawn at temperature 1 from random parameters, with `llm.inference.decode`'s own compiled functions.
    """
    model, batch = Transformer(config.model), config.training.batch_size
    vocabulary = config.model.vocab_size
    params = jax.jit(lambda seed: create_state(config, seed).params)(config.seed)
    capacity = decode.bucket(context + new_tokens - 1, config.model.context_length)
    settings = sampling.stack([sampling.SamplingParams(seed=row) for row in range(batch)])
    stops = np.zeros(vocabulary, bool)
    lengths = jnp.full((batch,), context - 1, jnp.int32)
    make = jax.jit(lambda key: jax.random.randint(key, (batch, context), 0, vocabulary, jnp.int32))
    key = jax.random.key(seed)
    shapes = jax.eval_shape(make, key)

    prefill = program.build(decode.prefill, model, params, shapes.update(shape=(batch, context - 1)), lengths, capacity)
    read = lambda tokens: prefill.compiled(params, tokens[:, :-1], lengths)

    def state(tokens):
        return decode.DecodeState(
            cache=read(tokens),
            token=tokens[:, -1],
            generated=jnp.zeros((batch,), jnp.int32),
            seen=jnp.zeros((batch, vocabulary), bool),
            done=jnp.zeros((batch,), bool),
        )

    random = lambda i: make(jax.random.fold_in(key, i))
    times = {'repeats': repeats, 'warmup': warmup}
    prefilled = measure(
        lambda tokens: prefill.compiled(params, tokens, lengths), lambda i: (random(i)[:, :-1],), **times
    )
    steps = np.int32(new_tokens)
    loop = program.build(decode.decode, model, params, state(random(0)), settings, stops, steps)
    # The state is donated, so each repeat has one of its own and runs the loop once.
    decoded = measure(
        lambda state: loop.compiled(params, state, settings, stops, steps),
        lambda i: (state(random(i)),),
        most_calls=1,
        **times,
    )
    shape = models.shape(config) | {'context': context, 'capacity': capacity, 'new_tokens': new_tokens}
    common: dict[str, Any] = {'kind': 'decode', 'dtype': config.model.compute_dtype, 'kernel': 'reference attention'}
    parameters = sum(x.nbytes for x in jax.tree.leaves(params))
    per_token = cache_bytes(config)
    middle = context + new_tokens // 2  # tokens in the cache on average
    floor = new_tokens * (parameters + batch * middle * per_token)
    prefill_tokens = batch * (context - 1)
    forward = lambda length: flops.forward_flops_per_token(config.model, length, '6N+attention_causal')
    head = 2 * config.model.vocab_size * config.model.width  # which a prefill does not multiply
    # A step of decoding reads the whole past: as a row of twice the length does on average.
    return [
        Case(
            name=f'{name} prefill',
            shape=shape | {'part': 'prefill'},
            tokens=prefill_tokens,
            flops={'2N+attention_causal': prefill_tokens * (forward(context - 1) - head)},
            bytes={'minimum': float(parameters + prefill_tokens * per_token)},
            memory=program.memory(prefill.compiled),
            compile_seconds=prefill.seconds,
            **common,
        ).timed(prefilled),
        Case(
            name=f'{name} decode',
            shape=shape | {'part': 'decode'},
            tokens=batch * new_tokens,
            flops={'2N+attention_causal': batch * new_tokens * forward(2 * middle)},
            bytes={'minimum': float(floor)},
            memory=program.memory(loop.compiled),
            compile_seconds=loop.seconds,
            notes=('decode: bytes are parameters and filled cache, read once a step; that time is the floor',),
            **common,
        ).timed(decoded),
    ]


def cache_bytes(config: Config) -> int:
    """Bytes of one token's keys and values in all layers."""
    model = config.model
    return 2 * model.num_layers * model.kv_heads * model.key_size * jnp.dtype(activation_dtype(model)).itemsize
