"""Train a model, or go on training one: the same command on the same workdir resumes."""

import pathlib
from dataclasses import dataclass

from llm.config import Config


@dataclass(frozen=True, kw_only=True)
class Args(Config):
    workdir: pathlib.Path  # folder of the run; made if there is none
    progress: bool = True  # draw a progress bar on stderr


def run(args: Args, config: Config) -> None:
    from llm import runtime
    from llm.workdir import Workdir

    runtime.prepare_host(Workdir(args.workdir))
    from llm.training.finish import report
    from llm.training.loop import train

    workdir = Workdir(args.workdir)
    before = workdir.summary()
    summary = train(config, args.workdir, args.progress)
    page = workdir.path / 'report.html'
    if summary != before or not page.is_file():
        report(workdir)
    held_out = summary['held_out']
    print(
        f'{summary["status"]}: step {summary["step"]}, held-out loss {held_out["loss"]:.4f}, '
        f'{held_out["bits_per_byte"]:.4f} bits per byte; report: {page}'
    )
