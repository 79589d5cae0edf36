"""Write a run's model as a folder that Hugging Face's transformers opens."""

import pathlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Args:
    workdir: pathlib.Path  # folder of the run
    to: pathlib.Path  # folder to make; must not exist
    step: int | None = None  # which checkpoint; None is the newest
    ema: bool = False  # the averaged parameters instead of the raw ones
    shard_mib: int = 2048  # most MiB of one file of weights; a tensor is never cut


def run(args: Args) -> None:
    from llm import runtime
    from llm.errors import UserError
    from llm.workdir import Workdir

    if args.shard_mib < 1:
        raise UserError(f'--shard-mib is {args.shard_mib}; it must be at least 1')
    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from llm.interop.huggingface.workdirs import export_model

    family = export_model(workdir, args.to, args.step, args.ema, args.shard_mib * 2**20, progress=True)
    print(f'{args.to} has the model of {args.workdir} as one of the family {family}')
