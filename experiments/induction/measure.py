"""What is measured of a run: its losses and its heads at every checkpoint, and what its last one loses with a head."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.induction.plan import Plan
from experiments.induction.sequences import measured_tokens
from llm import runtime
from llm.analysis import lens
from llm.config import ModelConfig
from llm.sweep.registry import Run
from llm.training.checkpoint import Checkpoints, load_params

FOUND = 0.4  # a head with a score of at least this counts as one of its kind
CHOOSING, JUDGING = 101, 202  # seeds of the sequences that heads are found on, and that removing them is judged on


@dataclasses.dataclass(frozen=True)
class History:
    """A run at its checkpoints.

    Attributes:
        steps: of the checkpoints.
        first: mean loss on the block where it is new, in nats, at each.
        second: mean loss on it where it is said again.
        scores: by kind, (checkpoints, layers, heads).
    """

    steps: list[int]
    first: list[float]
    second: list[float]
    scores: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Removal:
    """What the loss on the second copy is without some heads: their outputs are replaced by their means.

    Attributes:
        induction: the heads that were found, as (layer, head).
        previous: those of the layer below that look at the previous token.
        whole: the loss with all heads.
        without_induction: without those found.
        without_previous: without those that look at the previous token; None if there are none.
        without_others: without as many others as were found, the mean over all choices; None if there are too few.
        scores_without_previous: the induction scores of those found, when those that look back are gone.
    """

    induction: list[tuple[int, int]]
    previous: list[tuple[int, int]]
    whole: float
    without_induction: float
    without_previous: float | None
    without_others: float | None
    scores_without_previous: list[float]


def history(run: Run, plan: Plan) -> History:
    """Reads every checkpoint of a run."""
    config = model_config(run)
    tokens = measured_tokens(plan.rows_measured, plan.period, CHOOSING)
    steps = Checkpoints(run.workdir.checkpoints).steps()
    seen = [look(load_params(run.workdir, step)[1], config, tokens, plan.period) for step in steps]
    first, second, scores = zip(*jax.device_get(seen))
    return History(
        steps,
        [float(loss) for loss in first],
        [float(loss) for loss in second],
        {name: np.stack([one[name] for one in scores]) for name in scores[0]},
    )


def model_config(run: Run) -> ModelConfig:
    """The model's, for reading in full precision."""
    return dataclasses.replace(runtime.stored_config(run.workdir).model, compute_dtype='float32')


def look(params: Any, config: ModelConfig, tokens: np.ndarray, period: int, edits: Any = None):
    """Losses on the first and the second copy, and the scores of all heads."""
    logits, activations = lens.run(params, config, tokens, ('pattern',), edits)
    return (*losses(logits, tokens, period), lens.head_scores(activations['pattern'], tokens))


@functools.partial(jax.jit, static_argnames='period')
def losses(logits: jax.Array, tokens: jax.Array, period: int) -> tuple[jax.Array, jax.Array]:
    """Mean nats on the first copy, and on the second.

    Where a copy begins nothing tells what comes, so its first character is left out of both.
    """
    log_probs = jax.nn.log_softmax(logits[:, :-1])
    nats = -jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.mean(nats[:, 1:period]), jnp.mean(nats[:, period + 1 :])


def removal(run: Run, plan: Plan) -> Removal:
    """Finds heads on some sequences, and removes them on others."""
    config = model_config(run)
    params = load_params(run.workdir)[1]
    tokens = measured_tokens(plan.rows_measured, plan.period, CHOOSING)
    _, _, scores = look(params, config, tokens, plan.period)
    induction = heads_above(scores['induction'])
    top = max((layer for layer, _ in induction), default=0)
    previous = [head for head in heads_above(scores['previous']) if head[0] < top]
    others = [
        head
        for head in itertools.product(range(config.num_layers), range(config.num_heads))
        if head not in induction and head not in previous
    ]
    outputs = lens.run(params, config, tokens, ('head_outputs',)).activations['head_outputs']
    judged = measured_tokens(plan.rows_measured, plan.period, JUDGING)
    see = lambda heads: look(params, config, judged, plan.period, edits(config, outputs, heads))
    loss = lambda heads: float(see(heads)[1])
    as_many = list(itertools.combinations(others, len(induction))) if induction else []
    without_previous = see(previous)
    return Removal(
        induction,
        previous,
        whole=loss([]),
        without_induction=loss(induction),
        without_previous=float(without_previous[1]) if previous else None,
        without_others=float(np.mean([loss(heads) for heads in as_many])) if as_many else None,
        scores_without_previous=[float(without_previous[2]['induction'][head]) for head in induction]
        if previous
        else [],
    )


def heads_above(scores: np.ndarray, least: float = FOUND) -> list[tuple[int, int]]:
    """The heads with at least that score, as (layer, head)."""
    return [(int(layer), int(head)) for layer, head in np.argwhere(np.asarray(scores) >= least)]


def edits(config: ModelConfig, outputs: jax.Array, heads: Sequence[tuple[int, int]]) -> dict[str, lens.Edit]:
    """Puts the mean of each head's output in its place."""
    nothing = lens.mean_ablate(config, 'head_outputs', outputs, layers=(), units=())
    return lens.combine(
        nothing, *(lens.mean_ablate(config, 'head_outputs', outputs, layers=layer, units=head) for layer, head in heads)
    )
