"""Which runs of a sweep are trained together."""

import collections
import functools
import itertools
import os
import subprocess
from collections.abc import Iterable, Sequence

from absl import logging

from llm.analysis import flops
from llm.config import Config, NextToken
from llm.sweep.registry import Run
from llm.training.checkpoint import Checkpoints
from llm.training.together import LEFT
from llm.training.train_step import static
from llm.workdir import Workdir

MOST = 32  # runs of a population
RUN_FLOPS = 1e12  # of a run, up to which starting a process for it costs more than a lane: see docs/populations.md
MEMORY = 0.5  # share of the machine's memory that one population may take, as estimated here


def groups(runs: Sequence[Run], mode: str = 'auto', slots: int = 1, processes: bool = True) -> list[list[Run]]:
    """The jobs of a sweep: runs that are trained together, each run in one of them.

    Together are runs whose configs differ in numbers only (`llm.training.train_step.static`), which learn to predict
    the next token on one device, and which begin together or began together. Whoever began alone goes on alone, and so
    does whoever left a population.

    Args:
        runs: of the sweep.
        mode: 'on' wherever it applies, 'auto' where it also pays, 'off' nowhere.
        slots: jobs at once; as many populations are made, if there are the runs for it.
        processes: whether each job starts a process, and compiles; else jobs share a process and what it has compiled.
    """
    together: dict[tuple[Config, int], list[Run]] = {}
    jobs = []
    for run in runs:
        config = run.workdir.config()
        lanes = None if mode == 'off' or not _applies(run, config, mode) else began(run.workdir)
        if lanes == 0 and mode == 'auto' and not pays(config, processes):
            lanes = None
        if lanes is None:
            jobs.append([run])
        else:
            together.setdefault((static(config), lanes), []).append(run)
    order = {run.key: place for place, run in enumerate(runs)}
    for (config, lanes), members in list(together.items()):
        if lanes and not any(has_begun(run.workdir) for run in members):  # killed as they began: like any other
            fresh = together.setdefault((config, 0), []) + together.pop((config, lanes))
            together[config, 0] = sorted(fresh, key=lambda run: order[run.key])
    share = -(-slots // max(1, len(together)))
    for (config, lanes), members in together.items():
        jobs += _in_step(members, lanes) if lanes else _cut(members, max(share, -(-len(members) // most(config))))
    return sorted(jobs, key=lambda job: order[job[0].key])


def _applies(run: Run, config: Config, mode: str) -> bool:
    if run.workdir.finished(config):
        return False
    reason = alone_because(config)
    if reason and mode == 'on':
        logging.warning('%s is trained alone: %s', run.name, reason)
    return reason is None


def alone_because(config: Config) -> str | None:
    """Why a config cannot be trained together with others, or None if it can."""
    if type(config.objective) is not NextToken:
        return f'objective {config.objective.kind} is not next_token'
    if config.lora.rank:
        return 'it trains adapters'
    if config.init_from.continue_step:
        return 'it is a fork'
    parallel = config.parallel
    if parallel.wrapper != 'jit' or (parallel.data or 1) * parallel.fsdp * parallel.tensor * parallel.context > 1:
        return 'it asks for several devices'
    return None


def pays(config: Config, processes: bool) -> bool:
    """Whether training together is expected to be faster than one after the other.

    On an accelerator, which one small run leaves idle; on processors, where a lane takes up to 1.3 times the time of a
    run alone, only if that is less than starting a process and compiling. Figures are in docs/populations.md.
    """
    return _accelerated() or (processes and flops.run_flops(config) <= RUN_FLOPS)


def most(config: Config) -> int:
    """Runs that one population may have: `MOST`, or fewer so that their states fit in memory, by a rough count.

    Four numbers per parameter (itself, its gradient, two moments) and its average, and what the layers keep of each
    token for the backward pass, in float32.
    """
    model = config.model
    state = flops.matmul_weights(model) * (4 if config.training.ema_decay is None else 5)
    rows = config.training.batch_size // config.training.accumulation
    heads = model.num_heads * config.data.sequence_length  # scores of the reference attention
    kept = model.num_layers * (8 * model.width + 3 * model.hidden_width + 2 * heads) + 3 * model.vocab_size
    size = 4 * (state + rows * config.data.sequence_length * kept)
    return max(1, min(MOST, int(MEMORY * _memory() / size)))


def began(workdir: Workdir) -> int | None:
    """How many lanes the population has that a run belongs to; 0 if to none yet; None if it goes on alone."""
    if has_left(workdir):
        return None
    return workdir.runtime().get('population', None if has_begun(workdir) else 0)


def has_begun(workdir: Workdir) -> bool:
    """Whether a run has a checkpoint beyond its start."""
    return max(stored_steps(workdir)) > 0


def stored_steps(workdir: Workdir) -> set[int]:
    """Steps that a run can go on from: its checkpoints', or the start."""
    return set(Checkpoints(workdir.checkpoints).steps()) or {0}


def has_left(workdir: Workdir) -> bool:
    """Whether a run left a population because it diverged."""
    return any(row.get('event') == LEFT for row in workdir.rows('event'))


def common_step(steps: Iterable[set[int]]) -> int | None:
    """The step that most of some sets have, of those the last; None if all are empty."""
    counts = collections.Counter(step for some in steps for step in some)
    return max(counts, key=lambda step: (counts[step], step), default=None)


def _in_step(runs: list[Run], lanes: int) -> list[list[Run]]:
    """Runs that began in populations of some size, those together that have a checkpoint of one step."""
    jobs = []
    while runs:
        steps = [stored_steps(run.workdir) for run in runs]
        step = common_step(steps)
        jobs.append([run for run, its in zip(runs, steps, strict=True) if step in its][:lanes])
        runs = [run for run in runs if run not in jobs[-1]]
    return jobs


def _cut(runs: list[Run], pieces: int) -> list[list[Run]]:
    """In pieces of about equal size."""
    pieces = min(pieces, len(runs))
    edges = [len(runs) * i // pieces for i in range(pieces + 1)]
    return [runs[start:end] for start, end in itertools.pairwise(edges)]


@functools.cache
def _accelerated() -> bool:
    """Whether there is something faster than processors, asked without starting jax on it."""
    from llm.sweep.launchers import gpus

    return os.environ.get('JAX_PLATFORMS', '') != 'cpu' and bool(gpus())


def _memory() -> int:
    """Bytes of the memory that training takes place in: the smallest GPU's, or the machine's."""
    machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    if not _accelerated():
        return machine
    command = ['nvidia-smi', '--query-gpu=memory.total', '--format=csv,noheader,nounits']
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        return min(map(int, listed)) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return machine
