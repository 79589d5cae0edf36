"""A run with adapters becomes one without: what other runs start from, and what is published."""

import dataclasses
import shutil

import jax

from llm import config_json
from llm.config import CheckpointConfig, LoRAConfig
from llm.errors import UserError
from llm.tokenizer import open_workdir
from llm.training.checkpoint import Checkpoints, load_params, params_sha256
from llm.training.ledger import new_record
from llm.training.train_state import keeps_base, state_from_params
from llm.workdir import Workdir


def merge(source: Workdir, target: Workdir, step: int | None = None) -> int:
    """Writes a run whose parameters are those of `source`, adapters added to what they adapt.

    The optimizer starts afresh there: it knew the adapters only. A reference comes along, and so does
    what was measured, if it was at this step.

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
    merged = dataclasses.replace(config, lora=LoRAConfig())
    merged = dataclasses.replace(merged, training=dataclasses.replace(merged.training, steps=step))
    state = jax.jit(lambda params: state_from_params(merged, params, merged.seed))(params)
    target.path.mkdir(parents=True)
    if source.reference_file.is_file():
        shutil.copyfile(source.reference_file, target.reference_file)
    if keeps_base(merged):
        shutil.copytree(source.frozen, target.frozen)
    checkpoints = Checkpoints(target.checkpoints)
    checkpoints.save(step, state.stored(), new_record() | {'config': config_json.to_dict(merged)}, CheckpointConfig())
    checkpoints.finish(CheckpointConfig())
    checkpoints.close()
    open_workdir(source.path).save_in(target.path)
    target.write_runtime(source.runtime())
    target.write_config(merged)
    message = f'{source.path} at step {step}, adapters merged'
    changed = {'status': 'done', 'step': step, 'message': message, 'params_sha256': params_sha256(state.params)}
    before = source.summary()
    summary = before | {'config_hash': config_json.config_hash(merged), 'trained_parameters': before['parameters']}
    summary |= {'identity_hash': config_json.identity_hash(merged)} | changed
    if before['step'] != step:  # what was measured is of another step
        summary = {name: value for name, value in summary.items() if name not in ('held_out', 'reward_statistics')}
    target.write_summary(summary)
    return step
