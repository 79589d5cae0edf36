"""A config and parameters to a folder that `transformers` opens."""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from llm.config import Config, ModelConfig
from llm.errors import MachineError, UserError
from llm.interop.huggingface.families import family_for, written
from llm.interop.huggingface.family import Family
from llm.interop.huggingface.fields import CONFIG_FILE
from llm.interop.huggingface.shards import INDEX_FILE, WEIGHTS_FILE
from llm.interop.huggingface.tensors import Placed, place
from llm.interop.huggingface.whole_folder import whole_folder
from llm.training.train_state import parameter_shapes

SHARD_BYTES = 2 * 2**30  # most bytes of one file


def save(
    config: Config,
    params: Any,
    path: str | os.PathLike,
    *,
    family: str | None = None,
    token_ids: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = False,
) -> str:
    """Writes config.json and safetensors files, as a whole or not at all.

    Args:
        config: the model's shape is its `model`.
        params: the model's whole tree.
        path: folder to make; it must not exist.
        family: name of a family to try first; it is taken if it has such models.
        token_ids: `bos_token_id`, `eos_token_id` and `pad_token_id` for config.json, None where there is none.
        shard_bytes: most bytes of one file, but a tensor is never cut.
        progress: whether to show a bar on stderr.

    Returns:
        The family.

    Raises:
        UserError: if no family has such a model, or the folder exists.
    """
    target = pathlib.Path(path)
    with whole_folder(target) as folder:
        return write(
            config, params, folder, family=family, token_ids=token_ids, shard_bytes=shard_bytes, progress=progress
        )


def write(
    config: Config,
    params: Any,
    folder: pathlib.Path,
    *,
    family: str | None = None,
    token_ids: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = False,
) -> str:
    """What `save` does, into a folder that is there."""
    chosen = family_for(config.model, family)
    placed = place(chosen.table, _with_biases(params, written(chosen, config.model)))
    _write_weights(folder, placed, shard_bytes, progress)
    text = json.dumps(_config(chosen, config, token_ids or {}), indent=2) + '\n'
    (folder / CONFIG_FILE).write_text(text, encoding='utf-8')
    return chosen.model_type


def _config(family: Family, config: Config, token_ids: dict[str, Any]) -> dict[str, Any]:
    ids = {name: token_ids.get(name) for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    return {
        'architectures': [family.architecture],
        'model_type': family.model_type,
        'torch_dtype': config.model.param_dtype,
        **family.write(config.model),
        **ids,
    }


def _with_biases(params: Any, model: ModelConfig) -> Any:
    """The tree with zeros for biases that the family's model has and ours has not."""
    dtype = jax.tree.leaves(params)[0].dtype

    def filled(ours, theirs):
        if not isinstance(theirs, dict):
            return np.zeros(theirs.shape, dtype) if ours is None else ours
        return {name: filled((ours or {}).get(name), tree) for name, tree in theirs.items()}

    return filled(params, parameter_shapes(model))


def tensors(family: Family, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of theirs, by name, made of a tree like the parameters (their gradient, say)."""
    return ((name, _tensor(parts)) for name, parts in _tensors(place(family.table, params)).items())


def _write_weights(folder: pathlib.Path, placed: list[Placed], shard_bytes: int, progress: bool) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise UserError("models for others need safetensors; pip install 'glassbox-llm[huggingface]'") from error
    parts = _tensors(placed)
    size = sum(leaf.leaf.size * leaf.leaf.dtype.itemsize for leaf in placed)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise MachineError(f'no space left in {folder.parent}: {size / 2**20:.1f} MiB are needed, free some')
    shards = _shards({name: _bytes(held) for name, held in parts.items()}, shard_bytes)
    files = [WEIGHTS_FILE]
    if len(shards) > 1:
        files = [f'model-{i:05}-of-{len(shards):05}.safetensors' for i in range(1, len(shards) + 1)]
    bar = tqdm(desc='writing', total=size, unit='B', unit_scale=True, disable=None if progress else True, leave=False)
    with bar:
        for file, names in zip(files, shards):
            values = {}
            for name in names:
                values[name] = _tensor(parts[name])
                bar.update(values[name].nbytes)
            save_file(values, folder / file, metadata={'format': 'pt'})
            os.chmod(folder / file, 0o666 & ~_umask())  # it is made for its owner's eyes only
    if len(shards) > 1:
        index = {'metadata': {'total_size': size}, 'weight_map': {n: f for f, s in zip(files, shards) for n in s}}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')


def _tensors(placed: list[Placed]) -> dict[str, list[tuple[Placed, int]]]:
    """Of every tensor the parameters that it holds, side by side, each with the layer, in the order of the layers."""
    found: dict[str, list[tuple[Placed, int]]] = {}
    for one in placed:
        for layer, name in enumerate(one.names()):
            found.setdefault(name, []).append((one, layer))
    order = lambda item: (item[1][0][0].row.stacked, item[1][0][1])
    return {name: sorted(parts, key=lambda p: p[0].row.part) for name, parts in sorted(found.items(), key=order)}


def _bytes(parts: list[tuple[Placed, int]]) -> int:
    return sum(p.leaf.size // p.layers * p.leaf.dtype.itemsize for p, _ in parts)


def _shards(sizes: dict[str, int], most: int) -> list[list[str]]:
    """Names file by file: as many as fit."""
    shards, room = [[]], most
    for name, size in sizes.items():
        if shards[-1] and size > room:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    return shards


def _tensor(parts: list[tuple[Placed, int]]) -> np.ndarray:
    arrays = [np.asarray(jax.device_get(p.leaf[layer] if p.row.stacked else p.leaf)) for p, layer in parts]
    whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
    return np.ascontiguousarray(whole.T if parts[0][0].row.transposed else whole)


def _umask() -> int:
    """What the user takes away from new files; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
