"""What can be asked of each benchmark. Imports nothing but the standard library, so that `--help` is there at once.

A field's help, with its unit, is its metadata. An empty tuple as default means that the device or the config decides,
see docs/benchmarks.md.
"""

import argparse
import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from typing import Any

from llm.errors import UserError

PRESETS = ('gpt2-124m', 'gpt-1.3b', 'cpu-4x128', 'cpu-6x384')
DTYPES = ('float32', 'bfloat16', 'float16')
BACKENDS = ('auto', 'all', 'reference', 'blocks', 'cudnn', 'splash')


def option(default: Any, about: str, **more: Any) -> Any:
    """A dataclass field with the help of its option; `choices` limits the words it takes."""
    return field(default=default, metadata={'help': about, **more})


@dataclass(frozen=True)
class Common:
    """Options of every benchmark."""

    out: str = option(
        '', 'folder for the JSON and the Markdown file (default: benchmarks/<date>-<kind>)', metavar='DIR'
    )
    repeats: int = option(20, 'times taken of each case, after warm-up')
    warmup: int = option(3, 'calls before the first time that counts')
    seed: int = option(0, 'of the random inputs')
    progress: bool = option(True, 'draw a progress bar on stderr')

    def __post_init__(self):
        for name in ('repeats', 'warmup'):
            if getattr(self, name) < 1:
                raise UserError(f'--{name} is {getattr(self, name)}; it must be at least 1')


@dataclass(frozen=True)
class Model(Common):
    """Options of the benchmarks that run a model: presets (or a config), and lists that replace parts of them."""

    config: str = option('', 'Python config file with get_config(), instead of presets', metavar='FILE')
    presets: tuple[str, ...] = option((), 'named model shapes', choices=PRESETS)
    layers: tuple[int, ...] = option((), 'numbers of transformer blocks')
    width: tuple[int, ...] = option(
        (), 'sizes of the residual stream; the head size stays, the number of heads follows'
    )
    batch: tuple[int, ...] = option((), 'rows per step')
    dtypes: tuple[str, ...] = option((), "types of the matrix products' operands", choices=DTYPES)
    set: tuple[str, ...] = option(
        (), 'any other field of the config, such as model.remat=dots model.vocab_size=512', metavar='FIELD=VALUE'
    )


@dataclass(frozen=True)
class Train(Model):
    """The whole training step: forward, backward, optimizer."""

    length: tuple[int, ...] = option((), 'tokens per row')
    masking: tuple[str, ...] = option((), 'document masking', choices=('on', 'off'))
    backends: tuple[str, ...] = option(
        (), "attention backends (default: the config's); all is every one there is", choices=BACKENDS
    )
    devices: tuple[int, ...] = option((1,), 'devices that share the rows of a step')
    compiled_cost: bool = option(True, "also compile without loops, for the compiler's own operations and bytes")
    profile: str = option('', 'write a trace of a few steady steps there, for Perfetto and TensorBoard', metavar='DIR')


@dataclass(frozen=True)
class Attention(Common):
    """Attention alone: forward, and forward with backward."""

    batch: tuple[int, ...] = option((), 'rows')
    heads: tuple[int, ...] = option((), 'query heads')
    kv_heads: tuple[int, ...] = option((), 'key and value heads (default: as many as query heads)')
    length: tuple[int, ...] = option((), 'tokens per row')
    head_dim: tuple[int, ...] = option((), 'sizes of a head')
    dtypes: tuple[str, ...] = option((), 'types of queries, keys and values', choices=DTYPES)
    backends: tuple[str, ...] = option(('all',), 'attention backends; all is every one there is', choices=BACKENDS)
    masking: tuple[str, ...] = option(('off',), 'document masking', choices=('on', 'off'))
    window: tuple[int, ...] = option((0,), 'sliding windows in tokens; 0 sees all')


@dataclass(frozen=True)
class Matmul(Common):
    """Matrix products, for the measured peak, and large copies, for the measured bandwidth."""

    sizes: tuple[int, ...] = option((), 'sides of square matrices')
    shapes: tuple[str, ...] = option((), 'other products (rows x inner) @ (inner x outer)', metavar='ROWSxINNERxOUTER')
    dtypes: tuple[str, ...] = option((), 'types of the operands', choices=DTYPES)
    megabytes: tuple[int, ...] = option((), 'sizes of the arrays copied, in 10^6 bytes')


@dataclass(frozen=True)
class Decode(Model):
    """Writing text: reading the prompt (prefill), and one token after the other through the key-value cache."""

    context: tuple[int, ...] = option((), 'tokens of the prompt')
    new_tokens: int = option(32, 'tokens written in each timed call')


@dataclass(frozen=True)
class Data(Common):
    """The data pipeline alone, beside the training step that it feeds."""

    config: str = option('', 'Python config file with get_config() (default: the default config)', metavar='FILE')
    set: tuple[str, ...] = option(
        (), 'any field of the config, such as data.sequence_length=128', metavar='FIELD=VALUE'
    )
    batches: int = option(64, 'batches read in each timed call')


@dataclass(frozen=True)
class Compile(Model):
    """Tracing, lowering and compiling the training step, without and with the persistent cache, over depths."""

    length: tuple[int, ...] = option((), 'tokens per row')


@dataclass(frozen=True)
class Compare:
    """Set two results side by side: how many times as fast the second is, case by case, with 95% intervals."""

    files: tuple[str, ...] = option((), 'two JSON files of results: A.json B.json', positional=True)


KINDS: dict[str, type] = {
    cls.__name__.lower(): cls for cls in (Train, Attention, Matmul, Decode, Data, Compile, Compare)
}


def overview() -> str:
    """The text of `benchmark --help`."""
    lines = ['usage: python -m llm benchmark KIND [OPTIONS]', '', 'kinds:']
    lines += [f'  {name:10} {summary(cls)}' for name, cls in KINDS.items()]
    return '\n'.join(
        [*lines, '', '`benchmark KIND --help` lists the options. docs/benchmarks.md explains the numbers.']
    )


def summary(cls: type) -> str:
    return (cls.__doc__ or '').strip().split('\n')[0]


def parse(kind: str, arguments: list[str]) -> Any:
    """The options of one benchmark.

    Raises:
        UserError: for an unknown option, with the nearest one, or a value that does not fit.
        SystemExit: 0, after `--help`.
    """
    cls = KINDS[kind]
    parser = _Parser(prog=f'python -m llm benchmark {kind}', description=summary(cls), allow_abbrev=False)
    for f in dataclasses.fields(cls):
        _add(parser, f)
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        flag = unknown[0].split('=')[0]
        close = difflib.get_close_matches(flag, [s for a in parser._actions for s in a.option_strings], n=1)
        hint = f'; perhaps you meant {close[0]}' if close else ''
        raise UserError(f'benchmark {kind} has no option {unknown[0]}{hint} (--help lists the options)')
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(known).items()}
    return cls(**values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f'{message.removeprefix("argument ")} (--help lists the options)')


def _add(parser: argparse.ArgumentParser, f: dataclasses.Field) -> None:
    flag, about = '--' + f.name.replace('_', '-'), f.metadata['help']
    many = typing.get_origin(f.type) is tuple
    of = typing.get_args(f.type)[0] if many else f.type
    if of is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=f.default, help=about)
        return
    settings = {'type': of, 'choices': f.metadata.get('choices'), 'metavar': f.metadata.get('metavar')}
    if settings['metavar'] is None and settings['choices'] is None:
        settings['metavar'] = 'N' if of is int else 'TEXT'
    if f.metadata.get('positional'):
        parser.add_argument(f.name, nargs='+', type=of, metavar='FILE', help=about)
        return
    if f.default not in ((), ''):
        shown = ' '.join(map(str, f.default)) if many else f.default
        about += f' (default: {shown})'
    parser.add_argument(flag, nargs='+' if many else None, default=f.default, help=about, **settings)
