"""The other side of `against_trl.py`: the losses and the rollout of TRL's trainers, in the leanest loop around them.

Runs in an environment of its own (requirements-trl.txt) as a child process. It reads one command per line from standard
input and answers each with one line of JSON:

    time JOB N    N times JOB; answers {"seconds": [wall of each], "cpu_seconds": processor time of all threads,
                  "tokens": drawn in all}
    load PATH     takes the parameters from an .npz file written by the other side, with fresh optimizers
    losses JOB N  N steps; answers {"loss": [...], "grad_norm": [...]}

Jobs: `dpo`, a step of `DPOTrainer` with reference log-probabilities computed in advance; `grpo`, a step of
`GRPOTrainer` (its defaults: `dapo`, no KL) on a rollout that is given; `rollout`, `GRPOTrainer`'s generation. The
trainers are whole; of a step the loss is theirs, and backward pass, clipping and a fused AdamW are done here, without
the data loader, the callbacks and the logs around them, which would only make it slower. Gradient checkpointing, on by
default there, is off.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time

import datasets
import numpy as np
import post_training_batches as batches
import torch
import transformers
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def llama(shape: dict) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape['vocabulary'],
            hidden_size=shape['width'],
            intermediate_size=shape['hidden'],
            num_hidden_layers=shape['layers'],
            num_attention_heads=shape['heads'],
            max_position_embeddings=batches.length_of(shape),
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            pad_token_id=batches.PAD,
            bos_token_id=1,
            eos_token_id=batches.EOS,
        )
    )


def tokenizer_of(shape: dict) -> PreTrainedTokenizerFast:
    """One word per id: the trainers want a tokenizer, the rows here are ids already."""
    words = {word: i for i, word in enumerate(['<pad>', '<bos>', '<eos>'])}
    words |= {f'w{i}': i for i in range(len(words), shape['vocabulary'])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token='<pad>'))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='<pad>', bos_token='<bos>', eos_token='<eos>')


class Side:
    """One variant: the trainers with their models, optimizers and data."""

    def __init__(self, arguments):
        shape, self.shape = arguments.shape, arguments.shape
        self.autocast = lambda: (
            torch.autocast('cpu', torch.bfloat16) if arguments.dtype == 'bfloat16' else contextlib.nullcontext()
        )
        folder, tokenizer = tempfile.mkdtemp(), tokenizer_of(shape)
        common = {
            'output_dir': folder,
            'report_to': [],
            'use_cpu': True,
            'bf16': arguments.dtype == 'bfloat16',
            'gradient_checkpointing': False,
        }
        one_pair = {'prompt': ['w3'], 'chosen': ['w4'], 'rejected': ['w5']}
        dpo = trl.DPOTrainer(
            model=llama(shape),
            args=trl.DPOConfig(beta=batches.BETA, precompute_ref_log_probs=True, **common),
            train_dataset=datasets.Dataset.from_dict(one_pair),
            processing_class=tokenizer,
        )
        rows = shape['prompts'] * shape['samples']
        grpo = trl.GRPOTrainer(
            model=llama(shape),
            reward_funcs=lambda completions, **columns: [0.0] * len(completions),
            args=trl.GRPOConfig(
                per_device_train_batch_size=rows,
                num_generations=shape['samples'],
                max_completion_length=shape['response'],
                use_transformers_continuous_batching=arguments.continuous,
                **common,
            ),
            train_dataset=datasets.Dataset.from_dict({'prompt': ['w3'] * rows}),
            processing_class=tokenizer,
        )
        self.trainers = {'dpo': dpo, 'grpo': grpo}
        grpo.current_gradient_accumulation_steps = 1
        for trainer in self.trainers.values():
            trainer.model.train()
        if arguments.compile:
            for trainer in self.trainers.values():
                trainer.model.model.compile()  # the trunk, in place; the head is TRL's own
        self.inputs = {'dpo': None, 'grpo': self._responses()}
        prompts = batches.prompts_of(shape)
        each = [row[:length].tolist() for row, length in zip(prompts['prompts'], prompts['prompt_lengths'])]
        self.prompts = [row for row in each for _ in range(shape['samples'])]
        self._reset()

    def _reset(self):
        self.optimizers = {job: self._optimizer(trainer.model) for job, trainer in self.trainers.items()}
        self.inputs['dpo'] = self._pairs()

    def _optimizer(self, model):
        rates = batches.RATES
        split = [p for p in model.parameters() if p.ndim >= 2], [p for p in model.parameters() if p.ndim < 2]
        groups = [{'params': p, 'weight_decay': w} for p, w in zip(split, (rates['weight_decay'], 0.0))]
        betas = rates['b1'], rates['b2']
        return torch.optim.AdamW(groups, lr=rates['learning_rate'], betas=betas, eps=rates['epsilon'], fused=True)

    def _pairs(self):
        """As the trainer's collator makes them (chosen rows, then rejected ones), with the reference's scores."""
        rows = {
            name: torch.from_numpy(np.concatenate([x[:, 0], x[:, 1]])) for name, x in batches.pairs(self.shape).items()
        }
        tokens, steps = rows['tokens'].long(), torch.arange(rows['tokens'].shape[1])[None]
        inside = steps < rows['lengths'][:, None]
        inputs = {
            'input_ids': tokens,
            'attention_mask': inside.long(),
            'completion_mask': (inside & (steps >= rows['prompt_lengths'][:, None])).long(),
        }
        with self.autocast():
            trainer = self.trainers['dpo']
            chosen, rejected = trainer.compute_ref_log_probs(trainer.model, inputs)
        return inputs | {'ref_chosen_logps': chosen, 'ref_rejected_logps': rejected}

    def _responses(self):
        """As `GRPOTrainer` makes them: prompts padded on the left, responses on the right, group advantages."""
        rows, shape = batches.responses(self.shape), self.shape
        number = len(rows['tokens'])
        prompts, responses = np.zeros((number, shape['prompt']), int), np.zeros((number, shape['response']), int)
        prompt_mask, mask = np.zeros_like(prompts), np.zeros_like(responses)
        for row, (tokens, prompt, length) in enumerate(zip(rows['tokens'], rows['prompt_lengths'], rows['lengths'])):
            prompts[row, shape['prompt'] - prompt :], prompt_mask[row, shape['prompt'] - prompt :] = tokens[:prompt], 1
            responses[row, : length - prompt], mask[row, : length - prompt] = tokens[prompt:length], 1
        rewards = torch.from_numpy(rows['rewards']).view(shape['prompts'], shape['samples'])
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        given = {
            'prompt_ids': prompts,
            'prompt_mask': prompt_mask,
            'completion_ids': responses,
            'completion_mask': mask,
        }
        given = {name: torch.from_numpy(x) for name, x in given.items()}
        return given | {'advantages': advantages.view(-1), 'num_items_in_batch': torch.tensor(int(mask.sum()))}

    def step(self, job: str):
        trainer, optimizer = self.trainers[job], self.optimizers[job]
        with self.autocast():
            loss = trainer.compute_loss(trainer.model, dict(self.inputs[job]))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), batches.RATES['clip_norm'])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        trainer._metrics['train'].clear()
        return loss.item(), norm.item()

    def rollout(self) -> int:
        with self.autocast():
            drawn, _ = self.trainers['grpo']._generate_single_turn(self.prompts, None, {}, self.shape['samples'])
        return sum(map(len, drawn))

    def time(self, job: str, steps: str) -> dict:
        seconds, tokens, cpu = [], 0, time.process_time()
        for _ in range(int(steps)):
            start = time.perf_counter()
            if job == 'rollout':
                tokens += self.rollout()
            else:
                self.step(job)
            seconds.append(time.perf_counter() - start)
        return {'seconds': seconds, 'cpu_seconds': time.process_time() - cpu, 'tokens': tokens}

    def load(self, path: str) -> dict:
        stored = np.load(path)
        take = lambda parameter, array: parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(array)))
        for trainer in self.trainers.values():
            model = trainer.model.model
            take(model.embed_tokens.weight, stored['embedding/table'])
            take(model.norm.weight, stored['final_norm/scale'])
            for i, layer in enumerate(model.layers):
                take(layer.input_layernorm.weight, stored['blocks/attention_norm/scale'][i])
                take(layer.post_attention_layernorm.weight, stored['blocks/feed_forward_norm/scale'][i])
                for ours, theirs in {'query': 'q', 'key': 'k', 'value': 'v', 'output': 'o'}.items():
                    kernel = stored[f'blocks/attention/{ours}/kernel'][i]
                    take(getattr(layer.self_attn, f'{theirs}_proj').weight, kernel.T)
                for name in ('gate', 'up', 'down'):
                    kernel = stored[f'blocks/feed_forward/{name}/kernel'][i]
                    take(getattr(layer.mlp, f'{name}_proj').weight, kernel.T)
        self._reset()
        return {}

    def losses(self, job: str, steps: str) -> dict:
        found = [self.step(job) for _ in range(int(steps))]
        return {'loss': [loss for loss, _ in found], 'grad_norm': [norm for _, norm in found]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', type=json.loads, required=True, help='see post_training_batches.py')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='bfloat16 is autocast')
    parser.add_argument('--compile', action='store_true', help="torch.compile the model's trunk")
    parser.add_argument('--continuous', action='store_true', help='generate by continuous batching')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    side = Side(arguments)
    versions = {'torch': torch.__version__, 'transformers': transformers.__version__, 'trl': trl.__version__}
    versions |= {'python': platform.python_version(), 'threads': torch.get_num_threads()}
    versions['parameters'] = sum(p.numel() for p in side.trainers['dpo'].model.parameters())
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        command, *rest = line.split()
        print(json.dumps(getattr(side, command)(*rest)), file=answers)


if __name__ == '__main__':
    main()
