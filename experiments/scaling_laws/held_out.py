"""A run that no fit has seen: chosen and predicted by the law, then trained."""

import dataclasses
import json
import pathlib

import numpy as np

from experiments.scaling_laws import plan as plans
from experiments.scaling_laws.plan import Plan
from llm.analysis import flops, memory
from llm.analysis.scaling_laws.analysis import Analysis, Prediction, predict
from llm.analysis.scaling_laws.frontier import optimum_at_cost
from llm.config import Config
from llm.sweep import scaling
from llm.sweep.experiment import run_sweep
from llm.sweep.options import SweepOptions
from llm.workdir import write_atomically


def choose(plan: Plan, analysis: Analysis) -> Config:
    """The size that the law holds best for a budget `plan.beyond` times the largest, of those that there are."""
    budget = plan.beyond * max(plan.budgets)
    best = float(optimum_at_cost(analysis.fit.law, budget, analysis.runs.cost(analysis.runs.n)).n)
    usable = [width for width in plan.widths if plans.steps(plan, width, budget) >= plan.least_steps]
    distance = lambda width: abs(np.log(plans.parameters(plan, width) / best))
    return plans.config(plan, min(usable, key=distance), budget)


def predicted(config: Config, analysis: Analysis) -> Prediction:
    """What the fit says of a run before it is trained; its tokens are those it will read."""
    tokens = config.training.steps * config.training.batch_size * config.data.sequence_length
    return predict(analysis, config.name, memory.parameter_count(config.model), tokens, flops.run_flops(config))


def measured(folder: pathlib.Path, config: Config, prediction: Prediction, options: SweepOptions) -> Prediction:
    """Writes the prediction down, then trains the run and says what came of it."""
    plain = dataclasses.asdict(prediction)
    write_atomically(folder / 'prediction.json', json.dumps(plain, indent=1, default=float) + '\n')
    runs = run_sweep(folder / 'held_out', {config.name: config}, options)
    return dataclasses.replace(prediction, measured=float(scaling.table(runs).loss[0]))
