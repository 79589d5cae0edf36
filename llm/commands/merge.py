"""Add LoRA adapters to the weights they adapt: a run whose model stands alone."""

import pathlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Args:
    workdir: pathlib.Path  # folder of a run trained with --lora.rank
    out: pathlib.Path  # folder of the merged run; must not exist
    step: int | None = None  # which checkpoint; None is the newest


def run(args: Args) -> None:
    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from llm.training.merge import merge

    step = merge(workdir, Workdir(args.out), args.step)
    print(f'{args.out} has the model of {args.workdir} at step {step}, adapters added to its weights')
