"""Measure a checkpoint on all held-out data: loss and bits per byte, accuracy of preferences, or reward."""

import json
import pathlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Args:
    workdir: pathlib.Path  # folder of the run
    step: int | None = None  # which checkpoint; None is the newest
    ema: bool = False  # measure the averaged parameters
    batch_size: int | None = None  # rows per step; None is the config's
    stride: int | None = None  # tokens between the starts of windows; None is a whole window: no overlap


def run(args: Args) -> None:
    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from llm.training.evaluate import evaluate_checkpoint

    print(json.dumps(evaluate_checkpoint(workdir, args.step, args.ema, args.batch_size, args.stride)))
