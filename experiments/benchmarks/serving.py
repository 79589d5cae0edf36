"""How many tokens a second do requests that come together get from the engine, and how many one after the other?

    python experiments/benchmarks/serving.py [--workdir RUN | --preset gpt2-124m] [--concurrent 1 4 16]
        [--prompt-tokens 16 128] [--new-tokens 64] [--rounds 3] [--dtype float32] [--out FILE]

A round takes the same requests (prompts of random ids, lengths spread evenly, greedy) twice: one after the other
through `Generator.generate`, then at once through a running `Engine`. The two take turns, so that whatever else the
machine does hits both; everything is compiled before. Printed are medians over rounds: tokens written per second, the
ratio within a round, the same ratio by seconds that processors worked (on a machine that has other things to do it
tells more), and how long the median request waits for its first token. Both ways must write the same tokens, but for
near-ties: the share of requests that agree is printed, and below one half it is an error.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # the checkout, where the package is not installed

from llm.analysis import units
from llm.errors import MachineError

AGREE = 0.5  # of the requests, at least


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--workdir', type=pathlib.Path, help='run whose model writes; else one with random parameters')
    parser.add_argument('--preset', default='cpu-6x384', help='shape of the random model, as in `llm benchmark`')
    parser.add_argument('--dtype', default='float32', help="type of the random model's products")
    parser.add_argument('--concurrent', type=int, nargs='+', default=[1, 4, 16], help='requests at once')
    parser.add_argument('--prompt-tokens', type=int, nargs=2, default=[16, 128], help='shortest and longest prompt')
    parser.add_argument('--new-tokens', type=int, default=64, help='written per request')
    parser.add_argument('--rounds', type=int, default=3, help='of which medians are taken')
    parser.add_argument('--slots', type=int, default=16, help="the engine's")
    parser.add_argument('--out', type=pathlib.Path, help='JSON file for what was measured')
    args = parser.parse_args()

    from llm import runtime

    runtime.prepare_host()
    from llm.inference.engine import Engine

    generator = open_generator(args)
    engine = Engine(generator, slots=args.slots, max_queue=max(args.concurrent))
    start = time.perf_counter()
    engine.start()
    print(f'the engine was ready after {time.perf_counter() - start:.1f} s', file=sys.stderr)
    found = {}
    for number in args.concurrent:
        requests = make_requests(generator, args, number)
        one_by_one(generator, requests)  # compiles
        rounds = []
        for done in range(args.rounds):
            rounds.append(one_round(engine, generator, requests))
            print(f'{number} at once, round {done + 1} of {args.rounds}: {rounds[-1]}', file=sys.stderr, flush=True)
        found[number] = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    print(dataclasses.asdict(engine.statistics()), file=sys.stderr)
    engine.stop()
    columns = {
        'one by one, tokens/s': '{alone:.1f}',
        'engine, tokens/s': '{engine:.1f}',
        'ratio': '{ratio:.2f}',
        'ratio of processor seconds': '{worked:.2f}',
        'first token, ms': '{first:.0f}',
        'the same tokens': '{same:.0%}',
    }
    head = ['at once', *columns]
    rows = [[str(number), *(form.format(**its) for form in columns.values())] for number, its in found.items()]
    print(units.table(head, rows))
    if args.out:
        args.out.write_text(json.dumps({'arguments': vars(args), 'medians': found}, default=str, indent=1) + '\n')


def open_generator(args: argparse.Namespace):
    """The run's model, or a random one whose tokens are bytes."""
    import jax
    import jax.numpy as jnp

    from llm.benchmark.models import PRESETS
    from llm.config import TokenizerConfig
    from llm.inference.generate import Generator, load_generator
    from llm.model.transformer import Transformer
    from llm.tokenizer import train
    from llm.workdir import Workdir

    if args.workdir:
        return load_generator(Workdir.open(args.workdir))
    config = dataclasses.replace(PRESETS[args.preset]().model, compute_dtype=args.dtype)
    model = Transformer(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    return Generator(model, params, train(TokenizerConfig(kind='byte'), 272, []))


def make_requests(generator, args: argparse.Namespace, number: int) -> list:
    import numpy as np

    from llm.inference.engine import Request
    from llm.inference.sampling import SamplingParams

    rng = np.random.default_rng(0)
    lengths = np.linspace(*args.prompt_tokens, number).astype(int) if number > 1 else [sum(args.prompt_tokens) // 2]
    prompts = [rng.integers(16, 272, length - 1).tolist() for length in lengths]
    return [Request(prompt, SamplingParams(temperature=0.0), args.new_tokens) for prompt in prompts]


def one_by_one(generator, requests: list) -> list[list[int]]:
    return [
        generator.generate([request.prompt], request.sampling, max_new_tokens=request.max_new_tokens)[0].ids
        for request in requests
    ]


def one_round(engine, generator, requests: list) -> dict[str, float]:
    """Tokens per second of both ways, their ratio, the wait for a first token in ms, and how many requests agree."""
    start, worked = time.perf_counter(), time.process_time()
    expected = one_by_one(generator, requests)
    alone, alone_worked = time.perf_counter() - start, time.process_time() - worked

    start, worked, first = time.perf_counter(), time.process_time(), []
    handles = [engine.submit(request) for request in requests]

    def wait(handle):
        next(iter(handle))
        first.append(time.perf_counter() - start)

    readers = [threading.Thread(target=wait, args=(handle,)) for handle in handles]
    for reader in readers:
        reader.start()
    found = [handle.result().ids for handle in handles]
    together, together_worked = time.perf_counter() - start, time.process_time() - worked
    for reader in readers:
        reader.join()
    same = sum(a == b for a, b in zip(expected, found)) / len(requests)
    if same < AGREE:
        raise MachineError(f'only {same:.0%} of the requests got the same tokens from both ways')
    return {
        'alone': sum(map(len, expected)) / alone,
        'engine': sum(map(len, found)) / together,
        'ratio': alone / together,
        'worked': alone_worked / together_worked,
        'first': 1000 * statistics.median(first),
        'same': same,
    }


if __name__ == '__main__':
    main()
