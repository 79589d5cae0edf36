"""What differs between pretraining, fine-tuning and reinforcement learning: the data and the step."""

from typing import Any

from jax.sharding import Mesh

from llm import tokenizer as tokenizer_lib
from llm.config import Config, Corrupted, Distillation, NextToken, Online
from llm.data.batches import TrainBatches
from llm.data.corruption import CorruptedBatches
from llm.data.prepare import Prepared, prepare
from llm.errors import UserError
from llm.parallel.step import TrainStep
from llm.tokenizer import Tokenizer
from llm.training.train_state import TrainState


def load_data(config: Config, tokenizer: Tokenizer | None) -> Any:
    """The run's documents as token stores (`llm.data.prepare`), or its examples as tables (`llm.data.examples`).

    Args:
        config: the run's.
        tokenizer: of the run, or of the one it starts from; None learns one from documents.

    Raises:
        UserError: if there is nothing to train on, or no tokenizer to read it with.
    """
    if isinstance(config.objective, NextToken | Corrupted):
        return prepare(config, tokenizer)
    if tokenizer is None and config.tokenizer.kind != 'byte':
        raise UserError(
            f'objective {config.objective.kind} has no tokenizer; start from a trained run (init_from.workdir), or set '
            'tokenizer.kind to byte'
        )
    from llm.data.examples import prepare_examples

    return prepare_examples(config, tokenizer or tokenizer_lib.train(config.tokenizer, config.model.vocab_size, []))


def train_batches(config: Config, data: Any) -> Any:
    """Batches as a pure function of their index; see `llm.data.batches.TrainBatches`."""
    if isinstance(config.objective, Corrupted):
        return CorruptedBatches(config, data.train, data.tokenizer)
    if isinstance(data, Prepared):
        return TrainBatches(config, data.train, numbered=getattr(config.objective, 'stored', False))
    from llm.data.examples import ExampleBatches

    return ExampleBatches(config, data.train)


def make_step(config: Config, mesh: Mesh, placed: TrainState, data: Any) -> Any:
    """One update from a batch, with a teacher from what it says about it; one rollout and the updates made from it."""
    if isinstance(config.objective, Online):
        from llm.training.policy_step import PolicyStep

        return PolicyStep(config, mesh, placed, data)
    if isinstance(config.objective, Distillation):
        from llm.training.teacher import TaughtStep

        return TaughtStep(config, mesh, placed, data)
    return TrainStep(config, mesh, placed)
