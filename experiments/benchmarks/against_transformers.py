"""Our prefill and decoding against `generate` of transformers, on this machine, in one run.

    python experiments/benchmarks/against_transformers.py --other-python PATH --out FOLDER

The same random weights are on both sides, and both must give the same float32 logits and greedy tokens before anything
is timed. Each variant is a child process that stays alive; they take turns, round by round, so that whatever else the
machine does hits all of them. A turn writes one token after a prompt, then `--new-tokens` more after another: the
first is the prefill, the difference the decoding. All is greedy, and goes through each side's public way to generate.

Two ratios for each: of float32 against float32, and of the fastest variant against the fastest. A step of decoding
reads every weight once: the bytes of our variants' weights over the bandwidth, which is measured in the same run, are
the least time that it can take.

Waiting threads sleep on the other side (`--active` lets them spin, OpenMP's default): on a machine that does other work
spinning costs several times the time, on an idle one it gains little.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from against_pytorch import Child, machine, ratio_of
from generation_shapes import SHAPES

HERE = Path(__file__).parent
OURS = {
    'ours float32': ['--settings', '{"compute_dtype": "float32"}'],
    'ours bfloat16': ['--settings', '{"compute_dtype": "bfloat16"}'],
    'ours int8': ['--settings', '{"compute_dtype": "bfloat16"}', '--quantize', 'int8'],
    'ours int4': ['--settings', '{"compute_dtype": "bfloat16"}', '--quantize', 'int4'],
}
THEIRS = {
    'transformers float32': [],
    'transformers bfloat16': ['--dtype', 'bfloat16'],
    'transformers float32 compiled': ['--compile'],
    'transformers bfloat16 compiled': ['--dtype', 'bfloat16', '--compile'],
    'transformers int8': ['--dtype', 'int8'],  # PyTorch's dynamic quantization
}
PARTS = {'prefill': 'Prefill', 'decode': 'Decoding'}
TOLERANCE = 2e-3  # between the float32 logits of random models, which reach a few units


def start(name: str, shape: dict, arguments) -> Child:
    common = ['--shape', json.dumps(shape), '--threads', str(arguments.threads)]
    if name in OURS:
        return Child([sys.executable, str(HERE / 'glassbox_generation.py'), *OURS[name], *common])
    environment = {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': str(arguments.threads)}
    if not arguments.active:
        environment |= {'OMP_WAIT_POLICY': 'PASSIVE', 'GOMP_SPINCOUNT': '0'}
    script = str(HERE / 'transformers_generation.py')
    return Child([arguments.other_python, script, *THEIRS[name], *common], environment)


def same_model(ours: Child, theirs: Child, shape: dict, rows: int, length: int, count: int) -> dict:
    """Compares logits and greedy tokens of the two float32 sides.

    Raises:
        RuntimeError: if they differ: then the timings would compare different things.
    """
    if ours.versions['parameters'] != theirs.versions['parameters']:
        raise RuntimeError(f'the two sides have different models: {ours.versions}, {theirs.versions}')
    logits = [np.array(side.ask(f'logits {rows} {length}')['logits']) for side in (ours, theirs)]
    difference = float(np.abs(logits[0] - logits[1]).max())
    if difference > TOLERANCE:
        raise RuntimeError(f'the logits of the two sides differ by {difference}')
    ids = [np.array(side.ask(f'write {rows} {length} {count}')['ids']) for side in (ours, theirs)]
    # One near tie and the rest of a row is another text.
    equal = float((ids[0] == ids[1]).all(axis=1).mean())
    if equal < 0.5:
        raise RuntimeError(f'greedy continuations agree in {equal:.0%} of the rows only')
    return {'logits': difference, 'largest_logit': float(np.abs(logits[0]).max()), 'rows_equal': equal}


def measure(shape: dict, arguments) -> dict:
    """Turns of every variant at every batch, round by round; what could not run, and why."""
    children, missing, memory = {}, {}, {}
    length, count = arguments.prompt, arguments.new_tokens
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'parameters.npz'
        for name in arguments.variants:
            try:
                child = start(name, shape, arguments)
                if not path.exists():
                    child.ask(f'save {path}')
                memory[name] = child.ask('ready' if name in OURS else f'load {path}').get('bytes')
                children[name] = child
            except RuntimeError as error:
                missing[name] = str(error)
    agreed = same_model(children['ours float32'], children['transformers float32'], shape, 2, length, count)
    found = {}
    for rows in arguments.rows:
        for name in list(children):
            try:
                for number in (1, count + 1):  # compiles
                    children[name].ask(f'time {rows} {length} {number}')
            except RuntimeError as error:
                missing[name] = str(error)
                del children[name]
        rounds = []
        for _ in range(arguments.rounds):
            turn = {}
            for name, child in children.items():
                child.ask(f'time {rows} {length} 1')  # its data and its threads come back
                first = child.ask(f'time {rows} {length} 1')
                whole = child.ask(f'time {rows} {length} {count + 1}')
                turn[name] = {'prefill': first, 'decode': {key: whole[key] - first[key] for key in whole}}
            rounds.append(turn)
        tokens = {'prefill': rows * length, 'decode': rows * count}
        found[rows] = {part: summary(rounds, part, tokens[part]) for part in PARTS} | {'rounds': rounds}
        for part in PARTS:
            ratios = ', '.join(f'{kind} {found[rows][part][kind]["ratio"]:.2f}' for kind in ('float32', 'fastest'))
            print(f'{rows} rows, {part}: {ratios}', file=sys.stderr)
    versions = {name: child.versions for name, child in children.items()}
    for child in children.values():
        child.close()
    return {'agreed': agreed, 'batches': found, 'missing': missing, 'versions': versions, 'bytes': memory}


def summary(rounds: list[dict], part: str, tokens: int) -> dict:
    """What each variant took, and the ratios, round by round."""
    names = list(rounds[0])
    column = lambda name, key='seconds': [turn[name][part][key] for turn in rounds]
    rows = {
        name: {
            'seconds': statistics.median(column(name)),
            'fastest': min(column(name)),
            'cpu_seconds': statistics.median(column(name, 'cpu_seconds')),
            'tokens_per_second': tokens / statistics.median(column(name)),
        }
        for name in names
    }
    best = lambda side: min((name for name in names if name.startswith(side)), key=lambda n: rows[n]['seconds'])
    pairs = {
        'float32': ('ours float32', 'transformers float32'),
        'fastest': (best('ours'), best('transformers')),
    }
    ratios = {
        kind: {'ours': ours, 'theirs': theirs, **ratio_of(column(ours), column(theirs))}
        | {'of_cpu_time': rows[theirs]['cpu_seconds'] / rows[ours]['cpu_seconds']}
        for kind, (ours, theirs) in pairs.items()
    }
    return {'rows': rows, **ratios}


def bandwidth(threads: int) -> float:
    """Bytes per second that the machine reads from memory, in a child of this file: the best of several passes."""
    child = Child([sys.executable, __file__, '--bandwidth', '--threads', str(threads)])
    child.close()
    return child.versions['bytes_per_second']


def print_bandwidth(threads: int) -> None:
    sys.path.insert(0, str(HERE.parents[1]))
    from llm.environment import prepare_process

    prepare_process(threads)
    import jax
    import jax.numpy as jnp

    matrix, vector = jnp.ones((1 << 14, 1 << 14), jnp.float32), jnp.ones((1 << 14,), jnp.float32)  # 1 GiB
    product = jax.jit(lambda x, y: x @ y)  # what a step of decoding is made of; a sum takes longer than reading does
    jax.block_until_ready(product(matrix, vector))
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        jax.block_until_ready(product(matrix, vector))
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({'bytes_per_second': matrix.nbytes / min(seconds)}))


def as_markdown(report: dict) -> str:
    about = ', '.join(f'{name} {value}' for name, value in report['machine'].items())
    lines = ['# Generation against transformers', '', about, '', report['what'], '']
    for name, result in report['shapes'].items():
        shape = ', '.join(f'{key} {value}' for key, value in result['shape'].items())
        lines += [f'## {name}: {shape}', '']
        for batch, found in result['batches'].items():
            for part, title in PARTS.items():
                lines += [f'| {title}, batch {batch} | ms (median) | fastest | CPU ms | tokens/s | MB of weights |']
                lines += ['|---|---|---|---|---|---|']
                for side, row in found[part]['rows'].items():
                    times = ' | '.join(f'{1e3 * row[key]:,.1f}' for key in ('seconds', 'fastest', 'cpu_seconds'))
                    size = result['bytes'].get(side)
                    size = '' if size is None else f'{size / 1e6:,.0f}'
                    lines.append(f'| {side} | {times} | {row["tokens_per_second"]:,.0f} | {size} |')
                lines.append('')
                for kind in ('float32', 'fastest'):
                    r = found[part][kind]
                    interval = f'{r["low"]:.2f} to {r["high"]:.2f}'
                    lines.append(
                        f'- {kind}: **{r["ratio"]:.2f}** ({interval}), of processor time {r["of_cpu_time"]:.2f}: '
                        f'{r["ours"]} against {r["theirs"]}'
                    )
                lines.append('')
        lines += [f'Left out: {side}: {reason}' for side, reason in result['missing'].items()] + ['']
    return '\n'.join(lines).rstrip() + '\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--other-python', help='the Python of the environment of requirements-transformers.txt')
    parser.add_argument('--out', type=Path, help='folder for against_transformers.json and .md')
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=['gpt2', 'llama'])
    parser.add_argument('--variants', nargs='+', choices=[*OURS, *THEIRS], default=[*OURS, *THEIRS])
    parser.add_argument('--rows', type=int, nargs='+', default=[1, 16], help='prompts read and continued together')
    parser.add_argument('--prompt', type=int, default=128, help='tokens of each prompt')
    parser.add_argument('--new-tokens', type=int, default=64, help='tokens written after the first')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='of each side')
    parser.add_argument('--active', action='store_true', help="the other side's idle threads spin")
    parser.add_argument('--bandwidth', action='store_true', help='only print what memory gives, in bytes per second')
    arguments = parser.parse_args()
    if arguments.bandwidth:
        print_bandwidth(arguments.threads)
        return
    if not (arguments.other_python and arguments.out):
        parser.error('--other-python and --out are needed')
    read = bandwidth(arguments.threads)
    report = {'machine': machine() | {'threads': arguments.threads, 'reads, GB/s': round(read / 1e9, 1)}, 'shapes': {}}
    report['what'] = (
        f'Greedy continuations of prompts of {arguments.prompt} random tokens. Prefill is the time to the first token '
        f'written, decoding that of the {arguments.new_tokens} after it. {arguments.rounds} rounds; ratios are of '
        'tokens/s, ours over theirs, median over rounds with a 95% bootstrap interval.'
    )
    for name in arguments.shapes:
        result = {'shape': SHAPES[name], **measure(SHAPES[name], arguments)}
        report['shapes'][name] = result
        for side in result['versions'].values():
            report['machine'] |= {key: side[key] for key in ('jax', 'torch', 'transformers', 'python') if key in side}
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / 'against_transformers.json').write_text(json.dumps(report, indent=1) + '\n')
        (arguments.out / 'against_transformers.md').write_text(as_markdown(report))
    print(as_markdown(report))


if __name__ == '__main__':
    main()
