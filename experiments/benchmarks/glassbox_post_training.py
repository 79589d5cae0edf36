"""Our side of `against_trl.py`: the steps of `llm.training` on the model, rows and rewards of trl_post_training.py.

It answers the same commands (see there), and `save PATH`, which writes its first parameters for the other side.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import post_training_batches as batches

sys.path.insert(0, str(Path(__file__).parents[2]))


def configs_of(shape: dict, settings: dict) -> dict:
    """The config of each job, with Llama's model in it and AdamW at a constant rate."""
    from llm.config import (
        DPO,
        GRPO,
        AdamW,
        Config,
        Constant,
        DataConfig,
        ModelConfig,
        RewardConfig,
        RolloutConfig,
        TrainingConfig,
    )

    length, rates = batches.length_of(shape), dict(batches.RATES)
    clip_norm = rates.pop('clip_norm')
    common = {
        'model': ModelConfig(
            vocab_size=shape['vocabulary'],
            context_length=length,
            num_layers=shape['layers'],
            width=shape['width'],
            num_heads=shape['heads'],
            feed_forward_width=shape['hidden'],
            **settings,
        ),
        'data': DataConfig(sequence_length=length),
        'optimizer': AdamW(**rates),
        'schedule': Constant(warmup=0),
    }
    rollout = RolloutConfig(samples_per_prompt=shape['samples'], max_new_tokens=shape['response'])
    grpo = GRPO(rollout=rollout, reward=RewardConfig(function='given:rewards'))
    training = lambda rows: TrainingConfig(batch_size=rows, clip_norm=clip_norm)
    return {
        'dpo': Config(objective=DPO(beta=batches.BETA), training=training(shape['pairs']), **common),
        'grpo': Config(objective=grpo, training=training(shape['prompts']), **common),
    }


class Side:
    """The compiled steps, their states and their data."""

    def __init__(self, shape: dict, settings: dict):
        import jax

        from llm.inference.rollout import Rollout
        from llm.model import Transformer
        from llm.objectives.dpo import response_log_probs
        from llm.training.policy_update import make_rollout, make_update
        from llm.training.train_state import create_state
        from llm.training.train_step import hyperparameters, make_train_step

        configs = configs_of(shape, settings)
        self.create = {job: jax.jit(lambda c=config: create_state(c, 0)) for job, config in configs.items()}
        self.hypers = {job: hyperparameters(config) for job, config in configs.items()}
        self.fresh = lambda job: self.create[job]()
        self.states = {job: self.fresh(job) for job in configs}
        pairs = jax.device_put(batches.pairs(shape))
        score = jax.jit(lambda params: response_log_probs(Transformer(configs['dpo'].model), params, **pairs))
        pairs['reference_logprobs'] = score(self.states['dpo'].params)
        given = jax.device_put(batches.responses(shape))
        rewards = given.pop('rewards')
        # What the sampler's log-probabilities and its end of text say goes into metrics alone.
        rolled = Rollout(**given, sampler_logprobs=rewards[:, None] * 0 + given['tokens'] * 0.0, ended=rewards < 0)
        prompts = jax.device_put(batches.prompts_of(shape))
        step = jax.jit(make_train_step(configs['dpo']), donate_argnums=0)
        update = jax.jit(make_update(configs['grpo']), donate_argnums=0)
        draw = jax.jit(make_rollout(configs['grpo']))
        self.steps = {
            'dpo': lambda state: step(state, pairs, self.hypers['dpo']),
            'grpo': lambda state: update(state, rolled, rewards, self.hypers['grpo']),
        }
        self.draw = lambda: draw(self.states['grpo'], prompts, self.hypers['grpo'])
        self.wait = jax.block_until_ready
        self.parameters = sum(x.size for x in jax.tree.leaves(self.states['dpo'].params))
        self.flatten = jax.tree_util.tree_flatten_with_path

    def _advance(self, job):
        self.states[job], metrics = self.steps[job](self.states[job])
        return metrics

    def time(self, job: str, steps: str) -> dict:
        seconds, tokens, cpu = [], 0, time.process_time()
        for _ in range(int(steps)):
            start = time.perf_counter()
            if job == 'rollout':
                # Another seed each time, as another step of a run has.
                self.states['grpo'] = self.states['grpo'].replace(step=self.states['grpo'].step + 1)
                rolled = self.wait(self.draw())
                tokens += int((rolled.lengths - rolled.prompt_lengths).sum())
            else:
                metrics = self.wait(self._advance(job))
                self.wait(self.states[job])
                float(metrics['loss'][0])
            seconds.append(time.perf_counter() - start)
        return {'seconds': seconds, 'cpu_seconds': time.process_time() - cpu, 'tokens': tokens}

    def save(self, path: str) -> dict:
        leaves = self.flatten(self.fresh('dpo').params)[0]
        np.savez(path, **{'/'.join(key.key for key in names): np.asarray(leaf) for names, leaf in leaves})
        return {}

    def losses(self, job: str, steps: str) -> dict:
        """Loss and norm of the gradient of steps from the first parameters."""
        self.states[job] = self.fresh(job)
        found = [self._advance(job) for _ in range(int(steps))]
        return {name: [float(m[name][0] / m[name][1]) for m in found] for name in ('loss', 'grad_norm')}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', type=json.loads, required=True, help='see post_training_batches.py')
    parser.add_argument('--settings', type=json.loads, default={}, help='fields of ModelConfig')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    from llm.environment import prepare_process

    prepare_process(arguments.threads)  # as every command does
    import jax

    side = Side(arguments.shape, arguments.settings)
    versions = {'jax': jax.__version__, 'python': platform.python_version(), 'threads': arguments.threads}
    print(json.dumps(versions | {'parameters': side.parameters}), file=answers)
    for line in sys.stdin:
        command, *rest = line.split()
        print(json.dumps(getattr(side, command)(*rest)), file=answers)


if __name__ == '__main__':
    main()
