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
from experiments.induction.sequences import SPANS, measured_blocks, measured_documents
from llm import runtime
from llm.analysis import lens
from llm.config import ModelConfig
from llm.sweep.registry import Run
from llm.training.checkpoint import Checkpoints, load_params

FOUND = 0.4  # a head with at least this induction score counts as an induction head
CHOOSING, JUDGING = 101, 202  # seeds of the sequences that heads are found on, and that removing them is judged on

Head = tuple[int, int]  # layer, number


@dataclasses.dataclass(frozen=True)
class History:
    """A run at its checkpoints.

    Attributes:
        steps: of the checkpoints.
        new: mean loss on characters that are drawn anew, in nats, at each.
        again: mean loss on those that go on with a span which stood before.
        scores: by kind, (checkpoints, layers, heads).
    """

    steps: list[int]
    new: list[float]
    again: list[float]
    scores: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Removal:
    """What the loss on repeated spans is without some heads: their outputs are replaced by their means.

    Attributes:
        induction: the heads that were found.
        previous: the one in the layers below that looks most at the previous token; None if none were found.
        whole: the loss with all heads.
        without_induction: without those found.
        without_previous: without that one.
        without_others: without as many others as were found, the mean over all choices; None if there are too few.
        scores: induction scores of those found.
        scores_without_previous: the same when the one that looks back is gone.
    """

    induction: list[Head]
    previous: Head | None
    whole: float
    without_induction: float
    without_previous: float | None
    without_others: float | None
    scores: list[float]
    scores_without_previous: list[float]


def history(run: Run, plan: Plan) -> History:
    """Reads every checkpoint of a run."""
    config = model_config(run)
    documents = measured_documents(plan.rows_measured, CHOOSING)
    blocks = measured_blocks(plan.rows_measured, plan.period, CHOOSING)
    steps = Checkpoints(run.workdir.checkpoints).steps()
    seen = []
    for step in steps:
        params = load_params(run.workdir, step)[1]
        seen.append((losses(params, config, *documents), scores(params, config, blocks)))
    seen = jax.device_get(seen)
    return History(
        steps,
        [float(new) for (new, _), _ in seen],
        [float(again) for (_, again), _ in seen],
        {name: np.stack([found[name] for _, found in seen]) for name in seen[0][1]},
    )


def model_config(run: Run) -> ModelConfig:
    """The model's, for reading in full precision."""
    return dataclasses.replace(runtime.stored_config(run.workdir).model, compute_dtype='float32')


def scores(params: Any, config: ModelConfig, blocks: np.ndarray, edits: Any = None) -> dict[str, jax.Array]:
    """The scores of all heads, (layers, heads) by kind."""
    return lens.head_scores(lens.run(params, config, blocks, ('pattern',), edits).activations['pattern'], blocks)


def losses(params: Any, config: ModelConfig, tokens: np.ndarray, goes_on: np.ndarray, edits: Any = None):
    """Mean nats on the new characters that every document begins with, and on those that go on with a span."""
    return _losses(lens.run(params, config, tokens, edits=edits).logits, tokens, goes_on)


@functools.partial(jax.jit)
def _losses(logits, tokens, goes_on):
    log_probs = jax.nn.log_softmax(logits[:, :-1])
    nats = -jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.mean(nats[:, : SPANS[0]]), jnp.sum(nats * goes_on[:, 1:]) / jnp.sum(goes_on[:, 1:])


def removal(run: Run, plan: Plan) -> Removal:
    """Finds heads on some sequences, and removes them on others."""
    config = model_config(run)
    params = load_params(run.workdir)[1]
    chosen = measured_documents(plan.rows_measured, CHOOSING)[0]
    outputs = lens.run(params, config, chosen, ('head_outputs',)).activations['head_outputs']
    induction, previous = found_heads(
        scores(params, config, measured_blocks(plan.rows_measured, plan.period, CHOOSING))
    )
    heads = itertools.product(range(config.num_layers), range(config.num_heads))
    others = [head for head in heads if head not in induction and head != previous]
    judged = measured_documents(plan.rows_measured, JUDGING)
    blocks = measured_blocks(plan.rows_measured, plan.period, JUDGING)
    remove = functools.partial(removed, config, outputs)
    loss = lambda heads: float(losses(params, config, *judged, remove(heads))[1])
    score = lambda heads: jax.device_get(scores(params, config, blocks, remove(heads))['induction'])
    whole_scores, choices = score([]), list(itertools.combinations(others, len(induction))) if induction else []
    scores_below = score([previous]) if previous else whole_scores
    return Removal(
        induction,
        previous,
        whole=loss([]),
        without_induction=loss(induction),
        without_previous=loss([previous]) if previous else None,
        without_others=float(np.mean([loss(heads) for heads in choices])) if choices else None,
        scores=[float(whole_scores[head]) for head in induction],
        scores_without_previous=[float(scores_below[head]) for head in induction] if previous else [],
    )


def found_heads(scores: dict[str, jax.Array]) -> tuple[list[Head], Head | None]:
    """The induction heads, and of the layers below the highest of them the head that looks most at the token before."""
    induction = [(int(layer), int(head)) for layer, head in np.argwhere(np.asarray(scores['induction']) >= FOUND)]
    below = np.asarray(scores['previous'])[: max((layer for layer, _ in induction), default=0)]
    if not below.size:
        return induction, None
    layer, head = np.unravel_index(np.argmax(below), below.shape)
    return induction, (int(layer), int(head))


def removed(config: ModelConfig, outputs: jax.Array, heads: Sequence[Head]) -> dict[str, lens.Edit]:
    """Puts the mean of each head's output in its place."""
    nothing = lens.mean_ablate(config, 'head_outputs', outputs, layers=(), units=())
    return lens.combine(
        nothing, *(lens.mean_ablate(config, 'head_outputs', outputs, layers=layer, units=head) for layer, head in heads)
    )
