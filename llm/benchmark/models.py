"""Which models the benchmarks run: named shapes, a config file, lists that replace parts of them."""

import dataclasses
import itertools
import json
from typing import Any, NamedTuple

import jax

from llm import config_json, runtime
from llm.benchmark.options import Model
from llm.config import Config, DataConfig, ModelConfig, TrainingConfig
from llm.config_file import load_config
from llm.errors import UserError


class Named(NamedTuple):
    """A config and what its cases are called."""

    label: str
    config: Config
    backend: str  # the attention that was asked for, before 'auto' was resolved


def gpt(
    name: str, layers: int, width: int, heads: int, length: int, batch: int, vocabulary: int, **more: Any
) -> Config:
    """GPT-2's shape (Radford et al. 2019) without biases: learned positions, LayerNorm, GELU, tied embeddings."""
    return Config(
        name=name,
        model=ModelConfig(
            vocab_size=vocabulary,
            context_length=length,
            num_layers=layers,
            width=width,
            num_heads=heads,
            activation='gelu',
            position='learned',
            norm='layernorm',
            compute_dtype='auto',
            **more,
        ),
        data=DataConfig(sequence_length=length),
        training=TrainingConfig(batch_size=batch),
    )


PRESETS = {
    'gpt2-124m': lambda: gpt('gpt2-124m', 12, 768, 12, 1024, 32, 50304),  # vocabulary padded to a multiple of 128
    'gpt-1.3b': lambda: gpt('gpt-1.3b', 24, 2048, 16, 2048, 8, 50304),  # GPT-3 XL (Brown et al. 2020), heads of 128
    'cpu-4x128': lambda: gpt('cpu-4x128', 4, 128, 4, 128, 16, 512),
    'cpu-6x384': lambda: gpt('cpu-6x384', 6, 384, 6, 256, 8, 512),
}


def configs(options: Model, default: tuple[str, ...] = (), lengths: tuple[int, ...] = ()) -> list[Named]:
    """Every combination of what the options list, with `compute_dtype` resolved.

    Raises:
        UserError: for a combination that the config refuses.
    """
    if options.config and options.presets:
        raise UserError('--config and --presets both choose the model; give one of them')
    if options.config:
        bases = [load_config(options.config)]
    else:
        on_cpu = jax.default_backend() == 'cpu'
        bases = [
            PRESETS[name]() for name in options.presets or default or (('cpu-4x128',) if on_cpu else ('gpt2-124m',))
        ]
    found = []
    for base in bases:
        base = set_fields(base, options.set)
        axes = (options.layers, options.width, lengths, options.batch, options.dtypes)
        for layers, width, length, batch, dtype in itertools.product(*(axis or (None,) for axis in axes)):
            config = runtime.resolve(changed(base, layers, width, length, batch, dtype))
            found.append(Named(label(config), config, base.model.attention_backend))
    return list({named.label: named for named in found}.values())


def changed(
    config: Config,
    layers: int | None = None,
    width: int | None = None,
    length: int | None = None,
    batch: int | None = None,
    dtype: str | None = None,
) -> Config:
    """A config of another shape; None keeps what there is. With the width the number of heads changes, not their size.

    Raises:
        UserError: for a shape that the config refuses.
    """
    model = config.model
    changes: dict[str, Any] = {}
    if layers is not None:
        changes['num_layers'] = layers
    if width is not None and width != model.width:
        if width % model.key_size:
            raise UserError(f'--width is {width}; it must be a multiple of the head size ({model.key_size})')
        heads = width // model.key_size
        group = model.num_heads // model.kv_heads
        changes |= {'width': width, 'num_heads': heads, 'num_kv_heads': max(1, heads // group)}
        if model.feed_forward_width is not None:
            changes['feed_forward_width'] = model.feed_forward_width * width // model.width
    if length is not None:
        changes['context_length'] = length
    if dtype is not None:
        changes['compute_dtype'] = dtype
    try:
        return dataclasses.replace(
            config,
            model=dataclasses.replace(model, **changes),
            data=dataclasses.replace(config.data, **({} if length is None else {'sequence_length': length})),
            training=dataclasses.replace(config.training, **({} if batch is None else {'batch_size': batch})),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def set_fields(config: Config, changes: tuple[str, ...]) -> Config:
    """Applies `FIELD=VALUE` texts; values as in JSON, other words as they are.

    Raises:
        UserError: for a field that there is not, or a value that the config refuses.
    """
    plain = config_json.to_dict(config)
    for text in changes:
        name, equals, value = text.partition('=')
        *path, last = name.replace('-', '_').split('.')
        at = plain
        for part in path:
            at = at.get(part) if isinstance(at, dict) else None
        if not equals or not isinstance(at, dict) or last not in at:
            raise UserError(
                f'--set has {text!r}; write FIELD=VALUE with a field of the config, such as model.remat=dots'
            )
        try:
            at[last] = json.loads(value)
        except ValueError:
            at[last] = value
    return config_json.from_dict(plain)


def label(config: Config) -> str:
    """What a case of this config is called: its name and shape."""
    model = config.model
    return (
        f'{config.name} L{model.num_layers} W{model.width} H{model.num_heads} V{model.vocab_size} '
        f'T{config.data.sequence_length} B{config.training.batch_size} {model.compute_dtype}'
    )


def shape(config: Config) -> dict[str, Any]:
    """The numbers of the label."""
    model = config.model
    return {
        'layers': model.num_layers,
        'width': model.width,
        'heads': model.num_heads,
        'vocabulary': model.vocab_size,
        'length': config.data.sequence_length,
        'batch': config.training.batch_size,
        'remat': model.remat,
        'vocabulary_chunk': config.objective.vocabulary_chunk,
        'optimizer': config.optimizer.kind,
        'accumulation': config.training.accumulation,
        'parallel': dataclasses.asdict(config.parallel),
    }
