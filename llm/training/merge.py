"""A run with adapters becomes one without: what other runs start from, and what is published."""

import dataclasses

import jax

from llm import config_json
from llm.config import CheckpointConfig, InitFromConfig, LoRAConfig
from llm.errors import UserError
from llm.tokenizer import Tokenizer
from llm.training.checkpoint import Checkpoints, load_params, params_sha256
from llm.training.ledger import new_record
from llm.training.train_state import state_from_params
from llm.workdir import Workdir


def merge(source: Workdir, target: Workdir, step: int | None = None) -> int:
    """Writes a run whose parameters are those of `source`, adapters added to what they adapt.

    The optimizer starts afresh there: it knew the adapters only.

    Args:
        source: of a run with `lora.rank`.
        target: where to; it must not exist.
        step: which checkpoint; None is the newest good one.

    Returns:
        The step merged.

    Raises:
        UserError: if there is nothing to merge, or something in the way.
    """
    config = source.config()
    if not config.lora.rank:
        raise UserError(f'{source.path} has no adapters (lora.rank is 0): its weights stand alone already')
    if target.path.exists():
        raise UserError(f'{target.path} exists; choose another folder for the merged run')
    step, params = load_params(source, step)
    merged = dataclasses.replace(config, lora=LoRAConfig(), init_from=InitFromConfig())
    merged = dataclasses.replace(merged, training=dataclasses.replace(merged.training, steps=step))
    state = jax.jit(lambda params: state_from_params(merged, params, merged.seed))(params)
    target.path.mkdir(parents=True)
    checkpoints = Checkpoints(target.checkpoints)
    checkpoints.save(step, state.stored(), new_record() | {'config': config_json.to_dict(merged)}, CheckpointConfig())
    checkpoints.finish(CheckpointConfig())
    checkpoints.close()
    Tokenizer.load(source.tokenizer_file).save(target.tokenizer_file)
    target.write_runtime(source.runtime())
    target.write_config(merged)
    message = f'{source.path} at step {step}, adapters merged'
    changed = {'status': 'done', 'step': step, 'message': message, 'params_sha256': params_sha256(state.params)}
    summary = source.summary() | {'config_hash': config_json.config_hash(merged)}
    target.write_summary(summary | {'identity_hash': config_json.identity_hash(merged)} | changed)
    return step
