"""What a policy draws and what it learns from it: pure functions, for `jit` on a mesh, `pmap`, or `vmap` over seeds.

A step of reinforcement learning is one rollout and the updates made from it. Between the two, somebody gives rewards:
`llm.training.policy_step` in a run, anything at all in an experiment.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from llm.config import GRPO, PPO, RLOO, Config
from llm.inference.rollout import Rollout, rollout
from llm.model import Transformer
from llm.objectives import policy
from llm.objectives.advantages import GROUP_EPSILON, gae, group_advantages, leave_one_out, whiten
from llm.objectives.kl import adapted_coefficient
from llm.objectives.log_probs import masked_sum, response_mask, token_log_probs
from llm.parallel.axes import constrain
from llm.tokenizer import EOS
from llm.training.train_state import TrainState, penalised
from llm.training.train_step import Metrics, apply_gradients, full_params, summed_gradients

Draw = Callable[[TrainState, dict[str, Array], dict[str, Any]], Rollout]
Update = Callable[[TrainState, Rollout, Float[Array, 'rows'], dict[str, Any]], tuple[TrainState, Metrics]]


def make_rollout(
    config: Config, axis: str | None = None, stop_early: bool = True, end_ids: tuple[int, ...] = (EOS,)
) -> Draw:
    """Builds `draw(state, batch, hyper) -> Rollout` of B x G rows: G responses to each of B prompts, one after another.

    A response's random numbers follow from (`hyper['seed']`, `state.step`, its row in the global batch).

    Args:
        config: the run's, with an online objective.
        axis: name of the axis over which `pmap` runs copies, each with its part of the prompts.
        stop_early: False under `vmap`; see `llm.inference.rollout`.
        end_ids: the tokens that end a response: `llm.chat.end_ids` of the policy's tokenizer.

    Returns:
        The function. `batch` has `prompts` (B, P) right-padded and `prompt_lengths` (B,); `hyper` is
        `llm.training.train_step.hyperparameters(config)`.
    """
    model, settings = Transformer(config.model), config.objective.rollout

    def draw(state: TrainState, batch: dict[str, Array], hyper: dict[str, Any]) -> Rollout:
        params = full_params(config, state.params, state.frozen)
        rows = batch['prompts'].shape[0] * settings.samples_per_prompt
        first = 0 if axis is None else jax.lax.axis_index(axis) * rows
        key = jax.random.fold_in(jax.random.key(hyper['seed']), state.step)
        bits = lambda row: jax.random.bits(jax.random.fold_in(key, row), dtype=jnp.uint32)
        seeds = constrain(jax.vmap(bits)(first + jnp.arange(rows)), 'batch')
        return rollout(
            model,
            params,
            batch['prompts'],
            batch['prompt_lengths'],
            seeds,
            settings.max_new_tokens,
            hyper['objective'].temperature,
            stop_early=stop_early,
            end_ids=end_ids,
        )

    return draw


def make_update(config: Config, axis: str | None = None) -> Update:
    """Builds `update(state, rolled, rewards, hyper) -> (state, metrics)`: epochs x minibatches updates, one step.

    The training forward scores the responses again before the first update: these are the old log-probabilities, not
    the sampler's, which differ by rounding (`sampler_logp_gap`). If there is one update only, and nothing before it
    needs them (a penalty, values), it scores the responses itself, a quarter less work; the gap is then the mean of
    those of its micro-batches and of `pmap`'s copies. The reference is `state.frozen['base']`, if the state has one.
    Minibatch m of M takes every M-th prompt with all its responses, so that rows stay on their devices.

    Args:
        config: the run's, with an online objective.
        axis: name of the axis over which `pmap` runs copies, each with its part of the rows.

    Returns:
        The function. `rewards` (rows,) float32. Metrics are (sum, weight) pairs by the names of the field: those of the
        loss and of the optimizer as means over the updates, the others of the rollout.
    """
    objective, model = config.objective, Transformer(config.model)
    settings = objective.rollout
    pieces = settings.minibatches * config.training.accumulation
    over_devices = _OverDevices(axis)
    once = settings.epochs * settings.minibatches == 1 and not penalised(objective) and not isinstance(objective, PPO)

    def scores(params, rolled, temperature):
        scored = token_log_probs(
            model, params, rolled.tokens, temperature, rolled.prompt_lengths, settings.max_new_tokens
        )
        values = policy.token_values(params, scored.hidden) if 'value_head' in params else ()
        return scored.logprobs, values

    def update(
        state: TrainState, rolled: Rollout, rewards: Float[Array, 'rows'], hyper: dict[str, Any]
    ) -> tuple[TrainState, Metrics]:
        numbers = hyper['objective']
        coefficient = state.controls.get('kl_coefficient', numbers.kl_coefficient)
        groups = lambda x: x.reshape(-1, settings.samples_per_prompt)
        params = full_params(config, state.params, state.frozen)
        in_pieces = lambda params: _in_pieces(
            lambda rows: scores(params, rows, numbers.temperature), rolled, pieces, settings.samples_per_prompt
        )
        mask = response_mask(rolled.prompt_lengths, rolled.lengths, rolled.tokens.shape[1])
        batch = {'tokens': rolled.tokens, 'prompt_lengths': rolled.prompt_lengths, 'lengths': rolled.lengths}
        if once:
            old, batch['sampler_logprobs'] = None, rolled.sampler_logprobs
        else:
            old, values = in_pieces(params)
            batch['old_logprobs'] = old
        drift = None
        if penalised(objective):
            batch['reference_logprobs'] = in_pieces(state.frozen['base'])[0]
            drift = jnp.where(mask, old - batch['reference_logprobs'], 0.0)

        rewards = rewards.astype(jnp.float32)
        metrics = _rollout_metrics(rolled, groups(rewards), old, mask, over_devices)
        if drift is not None:
            kl, rows = metrics['objective/kl'] = over_devices.mean(jnp.sum(drift, axis=1))
            metrics['objective/kl_coefficient'] = coefficient, jnp.ones_like(coefficient)
            total, _ = metrics['reward']
            metrics['objective/rlhf_reward'] = total - coefficient * kl, rows
        if isinstance(objective, PPO):
            at_end = jnp.arange(mask.shape[1])[None, :] == rolled.lengths[:, None] - 1
            per_token = jnp.where(at_end, rewards[:, None], 0.0)
            if drift is not None:
                per_token = per_token - coefficient * drift
            advantages, returns = gae(per_token, values, mask, numbers.discount, numbers.gae_lambda)
            metrics['value/explained_variance'] = _explained_variance(values, returns, mask, over_devices)
            batch |= {'old_values': values, 'returns': returns, 'advantages': whiten(advantages, mask, axis)}
        else:
            if isinstance(objective, RLOO):
                judged = rewards if drift is None else rewards - coefficient * jnp.sum(drift, axis=1)
                advantages = leave_one_out(groups(judged))
                if objective.normalize_advantages:
                    advantages = whiten(advantages, None, axis, GROUP_EPSILON)
            else:
                advantages = group_advantages(groups(rewards), objective.scale_rewards)
            batch['advantages'] = jnp.where(mask, advantages.reshape(-1, 1), 0.0)
        if isinstance(objective, GRPO):
            tokens, rows = over_devices.mean(jnp.sum(mask, axis=1, dtype=jnp.float32))
            batch['row_tokens'] = jnp.full(rewards.shape, tokens / rows)

        state, learned = _learn(config, state, batch, hyper, axis)
        if 'kl_coefficient' in state.controls:
            kl, rows = metrics['objective/kl']
            adapted = adapted_coefficient(coefficient, kl / rows, rows, numbers.kl_target, numbers.kl_horizon)
            state = state.replace(controls=state.controls | {'kl_coefficient': adapted})
        tokens, one = metrics['tokens']  # read so often
        learned['tokens'] = tokens * settings.epochs, one
        return state.replace(step=state.step + 1), metrics | learned

    return update


def _learn(config, state, batch, hyper, axis):
    """The updates made from one rollout, and their metrics."""
    settings, accumulation = config.objective.rollout, config.training.accumulation
    compute = policy.make_loss(config.objective, Transformer(config.model), hyper['objective'])
    frozen = state.frozen
    loss = lambda params, batch, rng: compute(full_params(config, params, frozen), batch, rng)

    def one(state, batch):
        sums = summed_gradients(loss, state.params, batch, None, accumulation)
        gradients, weight, metrics = sums if axis is None else jax.lax.psum(sums, axis)
        state, values = apply_gradients(config, state, gradients, weight, hyper, config.log.per_layer)
        return state, metrics | values

    if settings.epochs * settings.minibatches == 1:
        return one(state, batch)
    batches = _split(batch, settings.minibatches, settings.samples_per_prompt)
    order = jnp.tile(jnp.arange(settings.minibatches), settings.epochs)
    # What does not change stays out of the loop's state.
    take = lambda state, m: one(state, jax.tree.map(lambda x: x[m], batches))
    state, metrics = jax.lax.scan(take, state.replace(frozen={}), order)
    return state.replace(frozen=frozen), jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)


def _split(tree, pieces, samples):
    """Arrays of rows as (pieces, rows of each, ...); piece m takes every `pieces`-th group of `samples` rows."""

    def split(x):
        x = x.reshape(-1, pieces, samples, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x.reshape(pieces, -1, *x.shape[3:]), None, 'batch', *(None,) * (x.ndim - 3))

    return jax.tree.map(split, tree)


def _in_pieces(function, tree, pieces, samples):
    """`function(tree)`, a part of the rows at a time, which bounds the memory it takes as the updates' is."""
    if pieces == 1:
        return function(tree)

    def join(x):
        x = x.reshape(pieces, -1, samples, *x.shape[2:]).swapaxes(0, 1)
        return constrain(x.reshape(-1, *x.shape[3:]), 'batch', *(None,) * (x.ndim - 3))

    return jax.tree.map(join, jax.lax.map(function, _split(tree, pieces, samples)))


class _OverDevices:
    """Sums and extremes over the rows of all copies under `pmap`; without an axis, of the rows here."""

    def __init__(self, axis: str | None):
        self._axis = axis

    def sum(self, x):
        return jnp.sum(x) if self._axis is None else jax.lax.psum(jnp.sum(x), self._axis)

    def max(self, x):
        return jnp.max(x) if self._axis is None else jax.lax.pmax(jnp.max(x), self._axis)

    def mean(self, x):
        """As a (sum, weight) pair."""
        return self.sum(x), self.sum(jnp.ones(x.shape, jnp.float32))


def _rollout_metrics(
    rolled: Rollout,
    rewards: Float[Array, 'prompts samples'],
    logprobs: Float[Array, 'rows length'] | None,
    mask: Bool[Array, 'rows length'],
    over_devices: _OverDevices,
) -> Metrics:
    """What a rollout was like, before anything is learned from it."""
    response = (rolled.lengths - rolled.prompt_lengths).astype(jnp.float32)
    lowest, highest = -over_devices.max(-rewards), over_devices.max(rewards)
    if rewards.shape[1] > 1:
        spread = over_devices.mean(jnp.std(rewards, axis=1, ddof=1))
        same = over_devices.mean((jnp.max(rewards, axis=1) == jnp.min(rewards, axis=1)).astype(jnp.float32))
    else:  # one response to each prompt: they are all one group
        total, rows = over_devices.mean(rewards)
        variance = over_devices.sum(jnp.square(rewards - total / rows)) / jnp.maximum(rows - 1, 1)
        spread = jnp.sqrt(variance), jnp.ones(())
        same = (lowest == highest).astype(jnp.float32), jnp.ones(())
    one = jnp.ones(())
    gap = {}
    if logprobs is None:
        logprobs = rolled.sampler_logprobs
    else:
        largest = over_devices.max(jnp.abs(jnp.where(mask, rolled.sampler_logprobs - logprobs, 0.0)))
        gap = {'sampler_logp_gap': (largest, one)}
    return gap | {
        'tokens': (over_devices.sum(rolled.lengths.astype(jnp.float32)), one),
        'reward': over_devices.mean(rewards),
        'reward_std': spread,
        'frac_reward_zero_std': same,
        'objective/scores': over_devices.mean(rewards),
        'objective/entropy': over_devices.mean(-masked_sum(logprobs, mask)),
        'eos_rate': over_devices.mean(rolled.ended.astype(jnp.float32)),
        'completions/mean_length': over_devices.mean(response),
        'completions/min_length': (-over_devices.max(-response), one),
        'completions/max_length': (over_devices.max(response), one),
        'completions/clipped_ratio': over_devices.mean(1 - rolled.ended.astype(jnp.float32)),
    }


def _explained_variance(values, returns, mask, over_devices):
    """1 - Var(returns - values) / Var(returns) over the responses' tokens, as a metric; 0 if all returns are equal."""
    count = jnp.maximum(over_devices.sum(mask.astype(jnp.float32)), 1)

    def variance(x):
        mean = over_devices.sum(jnp.where(mask, x, 0.0)) / count
        return over_devices.sum(jnp.where(mask, jnp.square(x - mean), 0.0)) / count

    total = variance(returns)
    explained = jnp.where(total > 0, 1 - variance(returns - values) / jnp.where(total > 0, total, 1.0), 0.0)
    return explained, jnp.ones_like(explained)
