"""Measuring parameters on held-out data: which evaluator an objective has, and stored checkpoints through it."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from llm import runtime
from llm.config import DPO, Config, Corrupted, NextToken, Online, ParallelConfig, RewardModel
from llm.errors import UserError
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import open_workdir
from llm.training.checkpoint import load_params, params_sha256
from llm.training.initialize import begin
from llm.training.reference import attach_reference, needs_reference
from llm.training.stages import load_data, make_step
from llm.training.train_state import placed_state
from llm.training.train_step import full_params
from llm.workdir import Workdir


def make_evaluator(config: Config, data: Any, mesh: Mesh, step: Any) -> Any:
    """What `measure(params, max_windows)`s parameters on held-out data."""
    if isinstance(config.objective, RewardModel | DPO):
        from llm.training.evaluate_preferences import PreferenceEvaluator

        return PreferenceEvaluator(config, data.held_out, mesh)
    if isinstance(config.objective, Online):
        from llm.training.evaluate_policy import PolicyEvaluator

        return PolicyEvaluator(config, data.held_out, step)
    if isinstance(config.objective, Corrupted):
        from llm.training.evaluate_corrupted import CorruptedEvaluator

        return CorruptedEvaluator(config, data.tokenizer, data.held_out, mesh)
    from llm.training.evaluate_text import TextEvaluator

    return TextEvaluator(config, data.tokenizer, data.held_out, mesh)


def evaluate_checkpoint(
    workdir: Workdir,
    step: int | None = None,
    ema: bool = False,
    batch_size: int | None = None,
    stride: int | None = None,
    quantize: str | None = None,
) -> dict[str, Any]:
    """Measures a stored checkpoint on all of the held-out data.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest.
        ema: the averaged parameters instead of the raw ones.
        batch_size: rows per step; None is the config's.
        stride: of documents, see `TextEvaluator.measure`.
        quantize: to how many bits weights are rounded first, see `llm.inference.quantization`; of text only.
    """
    config = runtime.usable_config(workdir)
    if batch_size is not None:
        if batch_size < 1:
            raise UserError(f'--batch-size is {batch_size}; it must be at least 1')
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, batch_size=batch_size))
    if batch_size is not None and isinstance(config.objective, Online):
        raise UserError('--batch-size is for held-out rows, and this run is measured in rollouts; leave it out')
    if stride is not None and isinstance(config.objective, Corrupted):
        raise UserError(
            f'--stride is for models that read from left to right, and objective {config.objective.kind} measures '
            'windows of which a part is hidden; leave it out'
        )
    if stride is not None and not isinstance(config.objective, NextToken):
        raise UserError('--stride is for documents, and this run learned from examples; leave it out')
    if stride is not None and not 1 <= stride <= config.data.sequence_length:
        raise UserError(f'--stride is {stride}; it must be between 1 and the window of {config.data.sequence_length}')
    if quantize is not None and isinstance(config.objective, RewardModel | DPO | Online):
        raise UserError(
            '--quantize is measured on text, and this run is measured by preferences or reward; leave it out'
        )
    config = dataclasses.replace(config, parallel=ParallelConfig())
    tokenizer = open_workdir(workdir.path)
    step, params = load_params(workdir, step, ema)
    mesh = mesh_lib.make_mesh(config.parallel)
    data = load_data(config, tokenizer)
    placed = placed_state(config, mesh)
    if needs_reference(config):

        def first_params():
            state = begin(config, placed)[0]
            return full_params(config, state.params, state.frozen)

        attach_reference(config, workdir, data, mesh, first_params)
    rollouts = make_step(config, mesh, placed, data) if isinstance(config.objective, Online) else None
    evaluator = make_evaluator(config, data, mesh, rollouts)
    digest = params_sha256(params)
    if quantize is not None:
        from llm.inference import prepared

        params = prepared.ready(params, config.model, quantize)
    params = jax.device_put(params, mesh_lib.replicated(mesh))
    measured = evaluator.measure(params, **({} if stride is None else {'stride': stride}))
    return {'step': step} | measured | {'stride': stride, 'ema': ema, 'quantize': quantize, 'params_sha256': digest}
