"""A model's folder to a config and parameters, tensor by tensor: never more than one parameter waits in memory."""

import gc
import os
import pathlib
import time
import weakref
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from llm import config_json
from llm.config import Config, DataConfig, ModelConfig
from llm.errors import UserError
from llm.interop.huggingface.families import family_of, read_model
from llm.interop.huggingface.family import Family
from llm.interop.huggingface.fields import Fields
from llm.interop.huggingface.shards import DTYPES, Shards
from llm.interop.huggingface.tensors import Placed, Row, expected_shapes, listed, place
from llm.parallel import mesh as mesh_lib
from llm.training.train_state import parameter_shapes

SEQUENCE_LENGTH = 1024  # tokens of a row, in the config of a model with room for them
STRETCH = 2**20  # bytes read at once; larger ones are slower, and leave more behind in the heap


def load(
    path: str | os.PathLike, *, dtype: str | None = None, mesh: Mesh | None = None, progress: bool = False
) -> tuple[Config, Any]:
    """Reads a model that `save_pretrained` left.

    Args:
        path: its folder, with config.json and one or many safetensors files.
        dtype: of the parameters and of matrix products; None is that of the files.
        mesh: the devices to put the parameters on, each its part; None is whole, on this process's first device.
        progress: whether to show a bar on stderr.

    Returns:
        A config with the model's shape, and its parameters.

    Raises:
        UserError: if the family is none that can be read, a tensor is missing, unknown, of another shape or not finite,
            or a file is damaged.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise UserError(f'there is no folder {folder}; point at what save_pretrained left')
    fields = Fields.read(folder)
    family = family_of(fields)
    model = read_model(family, fields)
    with Shards(folder, family.ignored) as shards:
        _refuse_types(shards)
        tied = _tied(family, model, shards)
        dtype = dtype or _dtype(fields, shards)
        model = config_json.from_dict(
            config_json.to_dict(model) | {'tied_embeddings': tied, 'param_dtype': dtype, 'compute_dtype': dtype},
            ModelConfig,
        )
        return _config(folder.resolve().name, model), _parameters(family, model, shards, mesh, progress)


def _config(name: str, model: ModelConfig) -> Config:
    length = min(model.context_length, SEQUENCE_LENGTH)
    return Config(name=name, model=model, data=DataConfig(sequence_length=length))


def _tied(family: Family, model: ModelConfig, shards: Shards) -> bool:
    """Whether the head is the embedding: as config.json says, unless the files have another head, as in transformers.

    A head that repeats the embedding is left out of the tensors.
    """
    names = {row.ours: row.theirs for row in _table(family, shards)}
    head, embedding = names['lm_head/kernel'], names['embedding/table']
    if not (model.tied_embeddings and {head, embedding} <= shards.tensors.keys()):
        return model.tied_embeddings
    folder = shards.tensors[head].file.parent
    if not _equal(shards, head, embedding):
        logging.warning('%s ties the head to the embedding, but its files have another %s; that is used', folder, head)
        return False
    logging.info('%s has the embedding again as %s; it is passed over', folder, head)
    del shards.tensors[head]
    return True


def _equal(shards: Shards, a: str, b: str) -> bool:
    """Whether two tensors hold the same values; read a stretch at a time."""
    shape = shards.tensors[a].shape
    if shape != shards.tensors[b].shape or not shape:
        return False
    values = lambda name, at: shards.read(name, at).astype(np.float32)  # which holds all that can be read
    stretches = _stretches(tuple(slice(0, size) for size in shape), np.dtype(np.float32).itemsize)
    return all(np.array_equal(values(a, at), values(b, at)) for _, at in stretches)


def _refuse_types(shards: Shards) -> None:
    """Refuses tensors that are no floating-point numbers of a known kind."""
    for name, stored in shards.tensors.items():
        if stored.dtype not in DTYPES:
            kinds = ', '.join(DTYPES)
            raise UserError(f'{stored.file}: {_counted([name])} is stored as {stored.dtype}; only {kinds} can be read')


def _dtype(fields: Fields, shards: Shards) -> str:
    """What all tensors have, or where they differ what config.json says; then it is said what that rounds."""
    found = {DTYPES[stored.dtype] for stored in shards.tensors.values()}
    if len(found) == 1:
        return found.pop()
    said = fields.get('dtype') or fields.get('torch_dtype')
    chosen = said if said in DTYPES.values() else 'float32'
    others = [name for name, stored in shards.tensors.items() if DTYPES[stored.dtype] != chosen]
    if others and chosen != 'float32':  # which holds all the others
        folder = shards.tensors[others[0]].file.parent
        logging.warning('%s: rounded to %s: %s; float32 keeps them as they are', folder, chosen, _counted(others))
    return chosen


def _parameters(family: Family, model: ModelConfig, shards: Shards, mesh: Mesh | None, progress: bool) -> Any:
    abstract = parameter_shapes(model)
    abstract = mesh_lib.with_shardings(mesh or mesh_lib.one_device(), abstract, abstract)
    placed = place(_table(family, shards), abstract)
    _check(family, model, placed, shards)
    size = sum(p.leaf.size * p.leaf.dtype.itemsize for p in placed)
    with tqdm(
        desc='reading', total=size, unit='B', unit_scale=True, disable=None if progress else True, leave=False
    ) as bar:
        leaves = [_parameter(p, shards, bar) for p in placed]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _table(family: Family, shards: Shards) -> tuple[Row, ...]:
    """The family's, without its prefix where the model was saved without its head."""
    if any(name.startswith(family.prefix) for name in shards.tensors):
        return family.table
    return tuple(row._replace(theirs=row.theirs.removeprefix(family.prefix)) for row in family.table)


def _check(family: Family, model: ModelConfig, placed: list[Placed], shards: Shards) -> None:
    """Refuses a folder that has not all tensors of the family in their shapes, or has others."""
    expected, found = expected_shapes(placed), shards.tensors
    folder = next(iter(found.values())).file.parent if found else ''
    if missing := [name for name in expected if name not in found]:
        raise UserError(f'{folder} lacks {_counted(missing)}, which {family.model_type} has; is it whole?')
    if extra := [name for name in found if name not in expected]:
        raise UserError(f'{folder} has {_counted(extra)}, unknown to {family.model_type}; is config.json its own?')
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise UserError(
                f'{found[name].file}: tensor {name} has shape {found[name].shape} and config.json asks for {shape}'
            )


def _counted(names: list[str]) -> str:
    return f'tensor{"s" if len(names) > 1 else ""} {listed(names)}'


def _parameter(placed: Placed, shards: Shards, bar: tqdm) -> jax.Array:
    leaf = placed.leaf
    parts: dict[tuple, np.ndarray] = {}  # devices that hold the same part share it

    def part(index):
        index = tuple(slice(*s.indices(size)[:2]) for s, size in zip(index, leaf.shape))
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            parts[key] = _part(placed, shards, index, bar)
        return parts[key]

    made = jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
    jax.block_until_ready(made)
    _let_go(parts)
    return made


def _let_go(parts: dict[tuple, np.ndarray]) -> None:
    """Drops what devices have copied, and waits until JAX has, which looks for it when garbage is collected.

    Left alone, it would still be there while the next parameter is read.
    """
    waiting = [weakref.ref(values) for values in parts.values() if values.nbytes > STRETCH]
    parts.clear()
    for _ in range(50):  # milliseconds; a processor may keep an array as it is
        gc.collect(0)  # the youngest objects are enough to have JAX called
        if all(found() is None for found in waiting):
            return
        time.sleep(0.001)


def _part(placed: Placed, shards: Shards, index: tuple[slice, ...], bar: tqdm) -> np.ndarray:
    """A part of a parameter, put together from the tensors of its layers."""
    row = placed.row
    result = np.empty([s.stop - s.start for s in index], placed.leaf.dtype)
    layers, within = (range(index[0].start, index[0].stop), index[1:]) if row.stacked else (range(1), index)
    theirs = row.index(within, placed.layer_shape)
    for number, layer in enumerate(layers):
        target = result[number] if row.stacked else result
        target = target.T if row.transposed else target
        for at, stretch in _stretches(theirs, placed.leaf.dtype.itemsize):
            values = shards.read(row.name(layer), stretch)
            with np.errstate(over='ignore'):
                target[at] = values
            if values.dtype != target.dtype and not np.isfinite(target[at]).all():
                raise UserError(
                    f'{shards.tensors[row.name(layer)].file}: tensor {row.name(layer)} has values past what '
                    f'{target.dtype} can hold; choose another dtype'
                )
            bar.update(values.size * placed.leaf.dtype.itemsize)
    return result


def _stretches(index: tuple[slice, ...], itemsize: int):
    """Cuts a part of a tensor along its first axis: (where in the part, where in the tensor)."""
    first, *rest = index
    row = itemsize * int(np.prod([s.stop - s.start for s in rest], dtype=np.int64))
    rows = max(1, STRETCH // max(row, 1))
    for start in range(first.start, first.stop, rows):
        stop = min(start + rows, first.stop)
        yield slice(start - first.start, stop - first.start), (slice(start, stop), *rest)
