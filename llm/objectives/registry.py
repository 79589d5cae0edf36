"""Which loss belongs to which kind of objective."""

from typing import Any

from llm.config import DPO, SFT, Config, Distillation, Masked, NextToken, PrefixLM, RewardModel, SpanCorruption
from llm.model.transformer import Transformer
from llm.objectives import distillation, dpo, next_token, policy, reward_model


def _module(config: Config):
    kinds = {
        NextToken: next_token,
        SFT: next_token,
        RewardModel: reward_model,
        DPO: dpo,
        Distillation: distillation,
    }
    kinds |= dict.fromkeys((Masked, PrefixLM, SpanCorruption), next_token)
    return kinds.get(type(config.objective), policy)


def hyperparameters(config: Config) -> Any:
    """The numbers of the objective that a compiled step takes as arguments."""
    return _module(config).hyperparameters(config.objective)


def make_loss(config: Config, model: Transformer, hyper: Any):
    """The objective's `loss(params, batch, rng) -> (loss_sum, weight, metrics)`; see the module of each."""
    return _module(config).make_loss(config.objective, model, hyper)
