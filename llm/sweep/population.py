"""Populations: runs that differ only in numbers, trained together in one compiled program.

`llm.sweep.grouping.groups` says which runs of a sweep those are, `train_population` trains them. What cannot be
together is left as it is, for `llm.training.loop.train`; so is a run that diverges on the way.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging

from llm import runtime
from llm.config import Config
from llm.parallel import mesh as mesh_lib
from llm.sweep.grouping import alone_because, began, common_step, groups, has_begun, stored_steps
from llm.training.attempt import Attempt
from llm.training.checkpoint import Checkpoints
from llm.training.loop import existing_tokenizer, locked
from llm.training.stages import load_data, train_batches
from llm.training.together import train_together
from llm.training.train_step import static
from llm.workdir import Workdir

__all__ = ['groups', 'train_population']

_WHO = ('population', 'jax', 'code')  # run-time choices that may differ between the members of a population


def train_population(
    paths: Sequence[str | os.PathLike], progress: bool = True, devices: list[jax.Device] | None = None
) -> None:
    """Trains the runs in these workdirs together, as far as they can be.

    A run that is done, that diverges, or that does not fit with the others is left to be trained alone.

    Args:
        paths: workdirs that have a config.json.
        progress: whether to draw a progress bar on stderr.
        devices: what to train on; None is all there are. On more than one, nothing is trained together.

    Raises:
        UserError: if the data cannot be used, or another process trains one of the runs.
        MachineError: if the disk is full.
        Interrupted: if a signal came; all are saved.
    """
    devices = jax.devices() if devices is None else devices
    configs = {Workdir(path): Workdir(path).config() for path in paths}
    together = _alike({workdir: config for workdir, config in configs.items() if not workdir.finished(config)})
    if len(devices) > 1 or jax.process_count() > 1 or len(together) < 2:
        return
    with contextlib.ExitStack() as held:
        for workdir in together:
            held.enter_context(locked(workdir))
        members = _open({workdir: configs[workdir] for workdir in together}, devices, held)
        if members:
            train_together(members, members[0].workdir.runtime()['population'], progress)


def _alike(configs: dict[Workdir, Config]) -> list[Workdir]:
    """Those whose configs are as the first one's but for numbers, and which did not begin alone or leave."""
    able = [w for w, config in configs.items() if alone_because(config) is None and began(w) is not None]
    return [w for w in able if static(configs[w]) == static(configs[able[0]])]


def _open(configs: dict[Workdir, Config], devices: list[jax.Device], held: contextlib.ExitStack) -> list[Attempt]:
    """Attempts of all runs that can go on from one step with one set of choices, to be closed with `held`."""
    first, config = next(iter(configs.items()))
    data = load_data(config, existing_tokenizer(config, first))
    mesh = mesh_lib.make_mesh(config.parallel, devices)
    choices = runtime.choose(config, first, data.digest)
    steps = {workdir: _good_steps(workdir) for workdir in configs if _chose(workdir, choices, data)}
    at = common_step(steps.values())
    workdirs = [workdir for workdir in steps if at in steps[workdir]]
    for workdir in configs.keys() - set(workdirs):
        logging.warning('%s cannot go on with the others, and is left to go on alone', workdir.path)
    if len(workdirs) < 2:
        return []
    # As many lanes as there are runs, or as the population had that they began in.
    lanes = [began(workdir) for workdir in workdirs] if any(map(has_begun, workdirs)) else []
    choices |= {'population': max([len(workdirs), *lanes])}
    batches: dict[int, Any] = {}  # by the seed of their order
    members = []
    for workdir in workdirs:
        config = configs[workdir]
        if config.data.seed not in batches:
            batches[config.data.seed] = train_batches(config, data)
        resolved = runtime.resolve(config, choices)
        members.append(Attempt(resolved, workdir, data, batches[config.data.seed], mesh, at))
        held.callback(members[-1].close)
        members[-1].describe(config, choices | _made_by(workdir))
    return members


def _chose(workdir: Workdir, choices: dict[str, Any], data: Any) -> bool:
    """Whether a run has the choices of the others, or none yet; and their tokenizer."""
    stored = workdir.runtime()
    same = all(stored.get(name) == value for name, value in choices.items() if name not in _WHO)
    tokenizer = existing_tokenizer(workdir.config(), workdir)
    return (same or not stored) and (tokenizer is None or tokenizer.digest == data.tokenizer.digest)


def _made_by(workdir: Workdir) -> dict[str, Any]:
    """The versions that a run was started with, if it was."""
    stored = workdir.runtime()
    return {name: stored[name] for name in ('jax', 'code') if name in stored}


def _good_steps(workdir: Workdir) -> set[int]:
    """Steps whose checkpoints verify, or the start if there is none at all."""
    checkpoints = Checkpoints(workdir.checkpoints)
    return {step for step in stored_steps(workdir) if not checkpoints.steps() or checkpoints.problem(step) is None}
