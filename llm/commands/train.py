"""Train a model, or go on training one: the same command on the same workdir resumes."""

import os
import pathlib
from dataclasses import dataclass
from typing import Any

from llm.config import Config
from llm.parallel.launch import Distributed, watch


@dataclass(frozen=True, kw_only=True)
class Args(Config):
    workdir: pathlib.Path  # folder of the run; made if there is none
    progress: bool = True  # draw a progress bar on stderr
    distributed: Distributed = Distributed()


def run(args: Args, config: Config) -> None:
    from llm import runtime
    from llm.analysis.measures import sentence
    from llm.workdir import Workdir

    workdir = Workdir(args.workdir)
    runtime.prepare_host(workdir)
    before = workdir.summary()
    summary = _on_several_processes(args, config) if args.distributed.asked else _here(args, config)
    if not summary:
        return  # process 0's host has the results
    page = workdir.path / 'report.html'
    if summary != before or not page.is_file():
        from llm.training.finish import report  # with what draws pages, which training does not need

        report(workdir)
    measured = sentence(config.objective.kind, summary['held_out'])
    print(f'{summary["status"]}: step {summary["step"]}, {measured}; report: {page}')


def _here(args: Args, config: Config) -> dict[str, Any]:
    from llm.training.loop import train

    return train(config, args.workdir, args.progress)


def _on_several_processes(args: Args, config: Config) -> dict[str, Any]:
    """Trains in child processes. Returns the summary on the host of process 0, elsewhere nothing."""
    import tempfile

    from llm.training.worker import command, first_on_this_host
    from llm.workdir import Workdir

    places = args.distributed.started_here()
    alone = len(places) == 1
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        commands = {
            str(place.process_id if place.cluster is None else os.getpid()): command(
                config, args.workdir, args.progress, place, alone, folder
            )
            for place in places
        }
        watch(commands, args.distributed.timeout, f'{args.workdir}/process-{{}}.log')
        return Workdir(args.workdir).summary() if first_on_this_host(folder).is_file() else {}
