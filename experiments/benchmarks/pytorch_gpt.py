"""The other side of `against_pytorch.py`: a GPT's training step in plain PyTorch, as fast as its documentation shows.

Runs in an environment of its own (requirements-pytorch.txt) as a child process. It reads one command per line from
standard input and answers each with one line of JSON:

    time N     N training steps; answers {"seconds": [wall of each], "cpu_seconds": processor time of all threads,
               "loss": last}
    load PATH  takes the parameters from an .npz file written by the other side, with a fresh optimizer
    losses N   N training steps; answers {"losses": [...]}

The model is GPT-2's shape: learned positions, LayerNorm before each part, GELU (tanh form), no biases, tied embeddings.
One matrix product makes queries, keys and values; attention is `scaled_dot_product_attention`.
"""

import argparse
import json
import os
import platform
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-6, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-6, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        split = lambda y: y.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        query, key, value = map(split, self.qkv(self.attention_norm(x)).split(width, dim=2))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.feed_forward_norm(x)), approximate='tanh'))


class GPT(nn.Module):
    def __init__(self, vocabulary: int, length: int, layers: int, width: int, heads: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width, eps=1e-6, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(
                    parameter, std=0.02 / (2 * layers) ** 0.5 if 'output' in name or 'down' in name else 0.02
                )

    def forward(self, tokens, targets):
        """The mean cross-entropy in nats."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.final_norm(x), self.embedding.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


class Side:
    """One variant: a model, its optimizer and its data."""

    def __init__(self, arguments):
        shape = arguments.shape
        self.model = GPT(*(shape[name] for name in ('vocabulary', 'length', 'layers', 'width', 'heads')))
        self.implementation = arguments.optimizer
        self.optimizer = self._optimizer()
        self.loss = torch.compile(self.model) if arguments.compile else self.model
        self.autocast = torch.autocast('cpu', torch.bfloat16, enabled=arguments.dtype == 'bfloat16')
        random = np.random.RandomState(0)
        size = (shape['batch'], shape['length'] + 1)
        rows = torch.from_numpy(random.randint(0, shape['vocabulary'], size))
        self.tokens, self.targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def _optimizer(self):
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{'params': matrices, 'weight_decay': 0.1}, {'params': vectors, 'weight_decay': 0.0}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, **{self.implementation: True})

    def step(self) -> torch.Tensor:
        with self.autocast:
            loss = self.loss(self.tokens, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def time(self, steps: int) -> dict:
        seconds, cpu = [], time.process_time()
        for _ in range(steps):
            start = time.perf_counter()
            loss = self.step().item()
            seconds.append(time.perf_counter() - start)
        return {'seconds': seconds, 'cpu_seconds': time.process_time() - cpu, 'loss': loss}

    def load(self, path: str) -> dict:
        stored = np.load(path)
        take = lambda parameter, array: parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(array)))
        take(self.model.embedding.weight, stored['embedding/table'])
        take(self.model.positions.weight, stored['positions/table'])
        take(self.model.final_norm.weight, stored['final_norm/scale'])
        for i, block in enumerate(self.model.blocks):
            for name in ('attention_norm', 'feed_forward_norm'):
                take(getattr(block, name).weight, stored[f'blocks/{name}/scale'][i])
            parts = [stored[f'blocks/attention/{name}/kernel'][i] for name in ('query', 'key', 'value')]
            take(block.qkv.weight, np.concatenate(parts, axis=1).T)
            take(block.output.weight, stored['blocks/attention/output/kernel'][i].T)
            for name in ('up', 'down'):
                take(getattr(block, name).weight, stored[f'blocks/feed_forward/{name}/kernel'][i].T)
        self.optimizer = self._optimizer()
        return {}

    def losses(self, steps: int) -> dict:
        return {'losses': [self.step().item() for _ in range(steps)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--shape', type=json.loads, required=True, help='vocabulary, length, layers, width, heads, batch'
    )
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='bfloat16 is autocast')
    parser.add_argument('--compile', action='store_true', help='torch.compile the model and its loss')
    parser.add_argument('--optimizer', choices=('fused', 'foreach'), default='fused', help='which AdamW')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    side = Side(arguments)
    versions = {'torch': torch.__version__, 'python': platform.python_version(), 'threads': torch.get_num_threads()}
    versions['parameters'] = sum(p.numel() for p in side.model.parameters())
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        command, argument = line.split(maxsplit=1)
        function = {'time': lambda n: side.time(int(n)), 'load': side.load, 'losses': lambda n: side.losses(int(n))}
        print(json.dumps(function[command](argument.strip())), file=answers)


if __name__ == '__main__':
    main()
