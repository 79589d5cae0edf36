"""`benchmark attention`: one attention of every backend, forward and with its backward pass."""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm.analysis import flops
from llm.benchmark import backends, program
from llm.benchmark.measure import measure
from llm.benchmark.options import Attention
from llm.benchmark.result import Case
from llm.benchmark.train_step import random_documents
from llm.config import Config, DataConfig, ModelConfig
from llm.errors import UserError
from llm.model import attention_backends
from llm.model.dtypes import activation_dtype

DIRECTIONS = ('forward', 'forward+backward')


def dtypes(options: Attention) -> tuple[str, ...]:
    on_cpu = jax.default_backend() == 'cpu'
    return options.dtypes or (('float32', 'bfloat16') if on_cpu else ('bfloat16',))


def plan(options: Attention) -> list[tuple[str, Callable[[], list[Case]]]]:
    """Every shape, in every type, by every backend, in both directions."""
    on_cpu = jax.default_backend() == 'cpu'
    axes = (
        options.batch or ((8,) if on_cpu else (16,)),
        options.heads or ((4,) if on_cpu else (16,)),
        options.kv_heads or (0,),
        options.length or ((128, 256) if on_cpu else (1024, 2048, 4096)),
        options.head_dim or ((64,) if on_cpu else (64, 128)),
        options.window,
        options.masking,
        dtypes(options),
    )
    planned = []
    for batch, heads, kv_heads, length, head_dim, window, masking, dtype in itertools.product(*axes):
        try:
            model = ModelConfig(
                context_length=length,
                num_heads=heads,
                num_kv_heads=kv_heads or None,
                head_dim=head_dim,
                width=heads * head_dim,
                windows=(window or None,),
                num_layers=1,
                compute_dtype=dtype,
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        name = f'B{batch} H{heads}/{model.kv_heads} T{length} D{head_dim} {dtype} masking {masking}'
        name += f' window {window}' if window else ''
        for backend, by_name in backends.asked(options.backends):
            config = Config(model=model, data=DataConfig(sequence_length=length))
            chosen, reason = backends.resolve(config, backend, by_name)
            case = Case(
                kind='attention',
                name=name,
                shape={
                    'batch': batch,
                    'heads': heads,
                    'kv_heads': model.kv_heads,
                    'length': length,
                    'head_dim': head_dim,
                    'window': window or None,
                    'masking': masking == 'on',
                },
                dtype=dtype,
                backend=backend,
                kernel=chosen.model.attention_backend,
                unavailable=reason,
            )
            if reason:
                planned.append((f'{backend} {name}', lambda case=case: [case]))
                continue
            for direction in DIRECTIONS:
                here = dataclasses.replace(
                    case, name=f'{name} {direction}', shape=case.shape | {'direction': direction}
                )
                settings = {'repeats': options.repeats, 'warmup': options.warmup, 'seed': options.seed}
                run = functools.partial(attention_case, here, model, **settings)
                planned.append((f'{backend} {here.name}', lambda run=run: [run()]))
    return planned


def attention_case(case: Case, model: ModelConfig, *, repeats: int, warmup: int, seed: int = 0) -> Case:
    """Measures what `case` describes: causal attention by its kernel, gradients of queries, keys and values included
    where it says so. The arrays have the type that they have in the model."""
    shape, backward = case.shape, case.shape['direction'] != 'forward'
    dtype = activation_dtype(model)
    attend = functools.partial(
        attention_backends.backend(case.kernel),
        window=shape['window'],
        scale=model.key_size**-0.5,
        softcap=None,
        dtype=jnp.dtype(model.compute_dtype),
    )

    @jax.jit
    def make(key):
        *keys, documents = jax.random.split(key, 5)
        heads = (model.num_heads, model.kv_heads, model.kv_heads, model.num_heads)
        sizes = [(shape['batch'], count, shape['length'], model.key_size) for count in heads]
        arrays = [jax.random.normal(k, size, jnp.float32).astype(dtype) for k, size in zip(keys, sizes)]
        segments = random_documents(documents, shape['batch'], shape['length'])['segment_ids']
        return (*arrays, segments if shape['masking'] else None)

    def forward(query, key, value, cotangent, segment_ids):
        return attend(query, key, value, segment_ids=segment_ids)

    def both(query, key, value, cotangent, segment_ids):
        mixed, pull_back = jax.vjp(lambda *args: attend(*args, segment_ids=segment_ids), query, key, value)
        return mixed, pull_back(cotangent.astype(mixed.dtype))

    key = jax.random.key(seed)
    built = program.build(jax.jit(both if backward else forward), *jax.eval_shape(make, key))
    timing = measure(built.compiled, lambda i: make(jax.random.fold_in(key, i)), repeats=repeats, warmup=warmup)
    cost = program.cost(built.compiled)
    tokens = shape['batch'] * shape['length']
    per_key = 4 * model.num_heads * model.key_size * tokens * (3 if backward else 1)
    keys = lambda causal: flops.attention_keys(shape['window'], shape['length'], causal)
    # Forward reads queries, keys and values and writes the mix; backward reads these and the mix's gradient, and writes
    # the three gradients.
    arrays = (6 if backward else 2) * (model.num_heads + model.kv_heads)
    return dataclasses.replace(
        case,
        tokens=tokens,
        flops={
            'attention_causal': per_key * keys(True),
            'attention_full': per_key * keys(False),
            'compiled': cost['flops'],
        },
        bytes={'minimum': float(arrays * tokens * model.key_size * dtype.itemsize), 'compiled': cost['bytes']},
        memory=program.memory(built.compiled),
        compile_seconds=built.seconds,
    ).timed(timing)
