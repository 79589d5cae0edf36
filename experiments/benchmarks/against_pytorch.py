"""Our training step against PyTorch's best, on this machine, in one run.

    python experiments/benchmarks/against_pytorch.py --torch-python PATH --out FOLDER

Each side is a child process that stays alive; they take turns, round by round, so that whatever else the machine does
hits all of them. A round's ratio is PyTorch's best variant over ours: above 1, ours is faster. The best variant is the
one with the lowest median. Before anything is timed, both sides train from the same parameters in float32, and their
losses must agree: it is the same model. The result is a table, one JSON file and one Markdown file.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SHAPES = {
    'small': {'vocabulary': 512, 'length': 128, 'layers': 4, 'width': 128, 'heads': 4, 'batch': 16},
    'large': {'vocabulary': 512, 'length': 256, 'layers': 6, 'width': 384, 'heads': 6, 'batch': 8},
}
SHAPES |= {f'{name}-4096': shape | {'vocabulary': 4096} for name, shape in list(SHAPES.items())}
OURS = {
    'ours bfloat16': ({'compute_dtype': 'bfloat16'}, {}),
    'ours float32': ({'compute_dtype': 'float32'}, {}),
}
TORCH = {
    'torch eager float32': ['--dtype', 'float32'],
    'torch eager bfloat16': ['--dtype', 'bfloat16'],
    'torch compile float32': ['--dtype', 'float32', '--compile'],
    'torch compile bfloat16': ['--dtype', 'bfloat16', '--compile'],
}
TOLERANCE = 2e-4  # relative, between the float32 losses of the first steps


class Child:
    """A side in a process of its own, asked one question at a time."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None):
        self.errors = tempfile.TemporaryFile('w+')  # noqa: SIM115 (lives as long as the child)
        pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': self.errors}
        self.process = subprocess.Popen(command, text=True, env=os.environ | (environment or {}), **pipes)
        self.versions = self._answer()

    def ask(self, question: str) -> dict:
        self.process.stdin.write(question + '\n')
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:]
            raise RuntimeError(f'{" ".join(self.process.args)} ended: {"".join(last)}')
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def same_model(shape: dict, arguments) -> dict:
    """Both sides' losses of three float32 steps from the same parameters.

    Raises:
        RuntimeError: if they differ: then the timings would compare different things.
    """
    ours = start('ours float32', shape, arguments)
    theirs = start('torch eager float32', shape, arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'parameters.npz'
        ours.ask(f'save {path}')
        theirs.ask(f'load {path}')
    losses = {name: side.ask('losses 3')['losses'] for name, side in (('ours', ours), ('torch', theirs))}
    same = np.allclose(losses['ours'], losses['torch'], rtol=TOLERANCE, atol=0)
    if not same or ours.versions['parameters'] != theirs.versions['parameters']:
        raise RuntimeError(f'the two sides train different models: {losses}')
    ours.close()
    theirs.close()
    return losses


def start(name: str, shape: dict, arguments) -> Child:
    common = ['--shape', json.dumps(shape), '--threads', str(arguments.threads)]
    if name in OURS:
        settings, environment = OURS[name]
        settings = settings | arguments.settings
        return Child(
            [sys.executable, str(HERE / 'glassbox_gpt.py'), '--settings', json.dumps(settings), *common], environment
        )
    return Child([arguments.torch_python, str(HERE / 'pytorch_gpt.py'), *TORCH[name], *common])


def measure(shape: dict, arguments) -> dict:
    """Seconds per step of every side in every round, and what could not run."""
    children, missing, versions = {}, {}, {}
    for name in [*OURS, *TORCH]:
        try:
            children[name] = start(name, shape, arguments)
            children[name].ask('time 3')
            versions[name] = children[name].versions
        except RuntimeError as error:
            missing[name] = str(error)
            children.pop(name, None)
    pace = {name: child.ask('time 2')['seconds'][-1] for name, child in children.items()}
    steps = {name: max(1, round(arguments.seconds / each)) for name, each in pace.items()}
    rounds = []
    for _ in range(arguments.rounds):
        turn = {}
        for name, child in children.items():
            child.ask('time 1')  # its data and its threads come back
            answer = child.ask(f'time {steps[name]}')
            turn[name] = {'seconds': answer['seconds'], 'cpu_seconds': answer['cpu_seconds'] / steps[name]}
        rounds.append(turn)
    for child in children.values():
        child.close()
    return {'rounds': rounds, 'missing': missing, 'versions': versions, 'steps_per_turn': steps}


def ratio_of(ours: list[float], theirs: list[float]) -> dict:
    """Median over rounds of PyTorch's seconds over ours in that round, with a 95% bootstrap interval."""
    ratios = np.array(theirs) / np.array(ours)
    draws = np.random.RandomState(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {'ratio': float(np.median(ratios)), 'low': float(low), 'high': float(high)}


def summary(shape: dict, measured: dict) -> dict:
    """What each side took, and the ratios of the best ones: of wall time by rounds, of the fastest single steps, and
    of processor time (which other work on the machine inflates less)."""
    tokens = shape['batch'] * shape['length']
    rounds, names = measured['rounds'], list(measured['rounds'][0])
    turns = {name: [statistics.median(turn[name]['seconds']) for turn in rounds] for name in names}
    every = {name: [seconds for turn in rounds for seconds in turn[name]['seconds']] for name in names}
    rows = {
        name: {
            'milliseconds': 1e3 * statistics.median(turns[name]),
            'fastest': 1e3 * min(every[name]),
            'slowest': 1e3 * max(every[name]),
            'cpu_milliseconds': 1e3 * statistics.median(turn[name]['cpu_seconds'] for turn in rounds),
            'tokens_per_second': tokens / statistics.median(turns[name]),
        }
        for name in names
    }

    def best(side, by):
        return min((name for name in names if name.startswith(side)), key=lambda name: rows[name][by])

    of = lambda by: rows[best('torch', by)][by] / rows[best('ours', by)][by]
    ours, theirs = best('ours', 'milliseconds'), best('torch', 'milliseconds')
    others = {'ratio_of_fastest': of('fastest'), 'ratio_of_cpu_time': of('cpu_milliseconds')}
    return {'rows': rows, 'ours': ours, 'torch': theirs, **ratio_of(turns[ours], turns[theirs]), **others}


def as_markdown(report: dict) -> str:
    machine = ', '.join(f'{name} {value}' for name, value in report['machine'].items())
    lines = ['# Training step against PyTorch', '', machine, '', report['what'], '']
    for name, result in report['shapes'].items():
        shape = ', '.join(f'{key} {value}' for key, value in result['shape'].items())
        lines += [f'## {name}: {shape}', '', '| side | ms a step (median) | fastest to slowest | CPU ms | tokens/s |']
        lines += ['|---|---|---|---|---|']
        for side, row in result['rows'].items():
            spread = f'{row["fastest"]:.1f} to {row["slowest"]:.1f}'
            times = f'{row["milliseconds"]:.1f} | {spread} | {row["cpu_milliseconds"]:.1f}'
            lines.append(f'| {side} | {times} | {row["tokens_per_second"]:,.0f} |')
        lines += [f'| {side} | did not run: {reason} | | | |' for side, reason in result['missing'].items()]
        interval = f'{result["low"]:.2f} to {result["high"]:.2f}'
        lines += ['', f'**{result["ratio"]:.2f}** ({interval}): {result["ours"]} against {result["torch"]}.']
        others = f'{result["ratio_of_fastest"]:.2f}; of processor time {result["ratio_of_cpu_time"]:.2f}'
        lines += [f'Of the fastest single steps {others} (each side at its best).', '']
    return '\n'.join(lines)


def machine() -> dict:
    model = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), model)
        flags = next((line for line in lines if line.startswith('flags')), '')
        model += ' with AMX' if 'amx_bf16' in flags else ''
    return {'processor': model, 'cores': os.cpu_count(), 'compiler': shutil.which('g++') or 'no g++'}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--torch-python', required=True, help='the Python of the environment that has PyTorch')
    parser.add_argument('--out', type=Path, required=True, help='folder for against_pytorch.json and .md')
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=list(SHAPES))
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--seconds', type=float, default=1.0, help='length of one turn')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--settings', type=json.loads, default={}, help='fields of our ModelConfig to change, as JSON')
    arguments = parser.parse_args()
    report = {'machine': machine() | {'threads': arguments.threads}, 'shapes': {}}
    report['what'] = (
        'The full step (forward, backward, clip to norm 1, AdamW) of a GPT with LayerNorm, learned positions, GELU, no '
        f'biases and tied embeddings. {arguments.rounds} rounds of {arguments.seconds} s; the ratio is tokens/s over '
        "that of PyTorch's best, median over rounds with a 95% bootstrap interval."
    )
    for name in arguments.shapes:
        shape = SHAPES[name]
        losses = same_model(shape, arguments)
        measured = measure(shape, arguments)
        result = {'shape': shape, 'losses': losses, **summary(shape, measured), **measured}
        report['shapes'][name] = result
        report['machine'] |= {
            key: value
            for side in result['versions'].values()
            for key, value in side.items()
            if key in ('jax', 'torch', 'python')
        }
        print(f'{name}: {result["ratio"]:.3f}', file=sys.stderr)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / 'against_pytorch.json').write_text(json.dumps(report, indent=1) + '\n')
        (arguments.out / 'against_pytorch.md').write_text(as_markdown(report))
    print(as_markdown(report))


if __name__ == '__main__':
    main()
