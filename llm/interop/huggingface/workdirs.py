"""Models of others as workdirs, and workdirs as models for others."""

import contextlib
import json
import pathlib
from typing import Any

import jax

from llm import config_json, runtime
from llm.config import CheckpointConfig, RewardModel
from llm.errors import UserError, first_line
from llm.inference.reading import require_causal
from llm.interop.huggingface.fields import CONFIG_FILE
from llm.interop.huggingface.load import load
from llm.interop.huggingface.save import write
from llm.interop.huggingface.whole_folder import refuse_existing, whole_folder
from llm.tokenizer import copy_tokenizer, open_workdir
from llm.tokenizer.export import export_tokenizer
from llm.tokenizer.files import FOLDER
from llm.training.checkpoint import Checkpoints, load_params, params_sha256
from llm.training.ledger import new_record
from llm.training.train_state import HEADS
from llm.workdir import Workdir

# What is fetched of a model on the hub: its files, not what else lies there in folders or in other formats.
FILES = ['*.json', '*.safetensors', 'tokenizer.model', '*.jinja']
OTHERS = ['*/*', 'consolidated*']
TOKEN_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


def import_model(source: str, target: Workdir, dtype: str | None = None, progress: bool = False) -> dict[str, Any]:
    """Writes a workdir with a model's parameters at step 0, its config and its tokenizer.

    Args:
        source: a folder that `save_pretrained` left, or the name of a model on the hub.
        target: where to; it must not exist.
        dtype: of the parameters; None is that of the files.
        progress: whether to show a bar on stderr.

    Returns:
        The summary.

    Raises:
        UserError: see `load`; or if there is no tokenizer, or something in the way.
    """
    refuse_existing(target.path)
    folder = _folder(source)
    with whole_folder(target.path) as path:
        workdir = Workdir(path)
        tokenizer = copy_tokenizer(folder, path)
        config, params = load(folder, dtype=dtype, progress=progress)
        if tokenizer.vocab_size > config.model.vocab_size:
            raise UserError(
                f'{folder}: the tokenizer has {tokenizer.vocab_size} tokens and the model {config.model.vocab_size}; '
                'are the files of the tokenizer those of the model?'
            )
        record = new_record() | {'config': config_json.to_dict(config), 'imported_from': source}
        with contextlib.closing(Checkpoints(workdir.checkpoints)) as checkpoints:  # what it began to write ends first
            checkpoints.save(0, {'params': params}, record, CheckpointConfig())
            checkpoints.finish(CheckpointConfig())
        workdir.write_config(config)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        summary = {
            'status': 'done',
            'step': 0,
            'message': f'imported from {source}',
            'objective': config.objective.kind,
            'parameters': parameters,
            'trained_parameters': parameters,
            'family': json.loads((folder / CONFIG_FILE).read_text(encoding='utf-8'))['model_type'],
            'config_hash': config_json.config_hash(config),
            'identity_hash': config_json.identity_hash(config),
            'params_sha256': params_sha256(params),
        }
        workdir.write_summary(summary)
    return summary


def _folder(source: str) -> pathlib.Path:
    """The folder itself, or that of a model on the hub once it is here."""
    path = pathlib.Path(source)
    if path.is_dir():
        return path
    if path.is_absolute() or source.startswith('.') or source.count('/') > 1 or path.exists():
        raise UserError(f'there is no folder {source}; point at what save_pretrained left')
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f'there is no folder {source}, and for models on the hub huggingface_hub is missing; '
            "pip install 'glassbox-llm[huggingface]'"
        ) from error
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(source, allow_patterns=FILES, ignore_patterns=OTHERS))
    except Exception as error:  # its errors have no common kind: of HTTP, of the network, of names
        raise UserError(f'there is no folder {source}, and the hub gives no such model: {first_line(error)}') from error


def export_model(
    source: Workdir,
    target: pathlib.Path,
    step: int | None = None,
    ema: bool = False,
    shard_bytes: int | None = None,
    progress: bool = False,
) -> str:
    """Writes a run's model as a folder that transformers opens, its tokenizer beside it.

    Args:
        source: of the run.
        target: where to; it must not exist.
        step: which checkpoint; None is the newest good one.
        ema: the averaged parameters instead of the raw ones.
        shard_bytes: most bytes of one file of weights; None is 2 GiB.
        progress: whether to show a bar on stderr.

    Returns:
        The family.

    Raises:
        UserError: if no family has such a model, or something is in the way.
    """
    config = runtime.stored_config(source)
    if isinstance(config.objective, RewardModel):
        raise UserError(f'{source.path} is a reward model: it writes no text, and no family has its head')
    require_causal(config, source.path, 'every family of transformers here')
    with whole_folder(target) as folder:
        _, params = load_params(source, step, ema)
        params = {name: tree for name, tree in params.items() if name not in HEADS}  # a critic stays behind
        ids = _token_ids(source)
        family = write(
            config,
            params,
            folder,
            family=source.summary().get('family'),
            token_ids=ids,
            progress=progress,
            **({} if shard_bytes is None else {'shard_bytes': shard_bytes}),
        )
        export_tokenizer(source.path, folder)
        if not (folder / 'generation_config.json').exists():
            (folder / 'generation_config.json').write_text(json.dumps(ids, indent=2) + '\n', encoding='utf-8')
    return family


def _token_ids(source: Workdir) -> dict[str, Any]:
    """As the model's own config.json had them, or as the tokenizer has."""
    stored = source.path / FOLDER / CONFIG_FILE
    if stored.is_file():
        data = json.loads(stored.read_text(encoding='utf-8'))
        return {name: None if isinstance(data.get(name), bool) else data.get(name) for name in TOKEN_IDS}
    tokenizer = open_workdir(source.path)
    return dict(zip(TOKEN_IDS, (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)))
