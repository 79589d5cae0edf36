"""What does it cost to train sixteen runs together, in one process after each other, or in a process each?

    python experiments/benchmarks/populations.py --out runs/populations [--steps 50] [--ways together shared processes]

Four learning rates times four seeds of a model of 4 layers, 128 wide, on the sources of Python's asyncio. Every way is
a sweep from the command line, started anew and with no compiled programs on the disk, so that starting and compiling
count. Printed are the seconds that passed and the seconds that processors worked, in all processes; on a machine that
has other things to do only the second tell anything.

This file is also the config of the sweep.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import sysconfig
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # the checkout, where the package is not installed

from llm.analysis import units
from llm.config import (
    CheckpointConfig,
    Config,
    Constant,
    DataConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.errors import MachineError
from llm.sweep import space

WAYS = {
    'together': ('a population', ('--launcher', 'here', '--population', 'on')),
    'shared': ('one process, one after the other', ('--launcher', 'here', '--population', 'off')),
    'processes': ('a process each', ('--launcher', 'local', '--jobs', '1', '--population', 'off')),
}
AGREE = 1e-3  # nats that the final losses of a run may differ by; the members of a population are checked in the tests


def get_config() -> Config:
    return Config(
        model=ModelConfig(vocab_size=512, context_length=64, num_layers=4, width=128, num_heads=4),
        tokenizer=TokenizerConfig(kind='bpe'),
        data=DataConfig(corpora=(f'text:{sysconfig.get_paths()["stdlib"]}/asyncio/*.py',), sequence_length=64),
        schedule=Constant(warmup=20),
        training=TrainingConfig(steps=50, batch_size=4),
        checkpoint=CheckpointConfig(every=1000),
        evaluation=EvaluationConfig(every=1000, sample_tokens=0),
        log=LogConfig(tensorboard=False),
    )


def get_space() -> space.Space:
    return space.product(space.axis('optimizer.learning_rate', 5e-4, 1e-3, 2e-3, 3e-3), space.seeds(4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=pathlib.Path, required=True, help='folder for the sweeps; must not exist yet')
    parser.add_argument('--steps', type=int, default=get_config().training.steps, help='of each run')
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS), help='in the order of measuring')
    parser.add_argument('--cached', action='store_true', help='keep compiled programs on the disk, as sweeps do')
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f'{args.out} exists; choose another --out')
    prepare()
    measured, losses = {}, {}
    for way in args.ways:
        measured[way], losses[way] = measure(way, args)
        print(f'{WAYS[way][0]}: {measured[way][0]:.1f} s, {measured[way][1]:.1f} s of processors', flush=True)
    print('\n' + report(measured, losses))


def prepare() -> None:
    """Tokenises the corpus, which no way is to pay for."""
    from llm import runtime

    runtime.prepare_host()
    from llm.data.prepare import prepare as prepare_data

    prepare_data(get_config())


def measure(way: str, args: argparse.Namespace) -> tuple[tuple[float, float], dict[str, float]]:
    """Seconds, seconds of processors, and the final training losses by run."""
    folder = args.out / way
    cache = args.out / f'compiled-{way}' if args.cached else None
    command = [sys.executable, '-m', 'llm', 'sweep', '--config', __file__, '--out', str(folder), '--no-progress']
    command += ['--training.steps', str(args.steps), *WAYS[way][1]]
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    environment |= {'JAX_COMPILATION_CACHE_DIR': str(cache)} if cache else {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    start, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    passed, worked = time.perf_counter() - start, processor_seconds() - before
    if done.returncode:
        raise MachineError(f'{" ".join(command)} failed: {done.stderr[-2000:]}')
    from llm.sweep import registry

    rows = registry.rows(registry.open_sweep(folder))
    return (passed, worked), {row['name']: row['train_loss'] for row in rows}


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(measured: dict[str, tuple[float, float]], losses: dict[str, dict[str, float]]) -> str:
    """A table: seconds of each way, and how many times those of the first it takes."""
    first = next(iter(measured))
    for way, its in losses.items():
        apart = max(abs(its[name] - loss) for name, loss in losses[first].items())
        if apart > AGREE:
            raise MachineError(f'{way} and {first} differ by {apart:.2g} in a final loss; they are not the same runs')
    head = [f'{len(losses[first])} runs as', 'seconds', 'ratio', 'processor seconds', 'ratio']
    rows = []
    for way, pair in measured.items():
        ratios = [f'{one / base:.2f}' for one, base in zip(pair, measured[first], strict=True)]
        rows.append([WAYS[way][0], f'{pair[0]:.1f}', ratios[0], f'{pair[1]:.1f}', ratios[1]])
    return units.table(head, rows)


if __name__ == '__main__':
    main()
