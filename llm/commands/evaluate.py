"""Measure a checkpoint: on all held-out data, or on tasks (corpora, files of questions, lm-evaluation-harness)."""

import dataclasses
import json
import pathlib
import sys
from dataclasses import dataclass
from typing import Literal

from llm.errors import UserError


@dataclass(frozen=True)
class Args:
    """Without --tasks: loss and bits per byte, accuracy of preferences, or reward, as the run's objective has it."""

    workdir: pathlib.Path  # folder of the run
    tasks: tuple[str, ...] = ()  # corpora, FILE.jsonl, folders, names of harness tasks; see docs/evaluation.md
    step: int | None = None  # which checkpoint; None is the newest
    ema: bool = False  # measure the averaged parameters
    batch_size: int | None = None  # rows per step; None is the config's, and for tasks chosen by the context
    stride: int | None = None  # tokens between the starts of windows; None is a whole window: no overlap
    quantize: Literal['int8', 'int4'] | None = None  # round weights to so few bits first; measured on text
    limit: int | None = None  # samples of each task, the first ones; None is all
    chat: bool = False  # ask plain prompts as messages of the user
    num_fewshot: int | None = None  # harness tasks: examples before each sample; None is what the task says
    include_path: tuple[str, ...] = ()  # folders with YAML tasks for the harness; needs no network
    max_new_tokens: int = 64  # exact match: longest answer, in tokens
    until: tuple[str, ...] = ('\n',)  # exact match: texts that end the answer to a plain prompt
    bins: int = 15  # of the calibration error, all of the same width
    again: bool = False  # measure also the tasks whose results are there


NOT_OF_TASKS = {'workdir', 'tasks', 'step', 'ema', 'batch_size', 'stride', 'quantize'}


def run(args: Args) -> None:
    """Prints a JSON object, or with tasks a table.

    Raises:
        UserError: for a missing run, a task that there is not, or options that do not combine.
    """
    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    for field in dataclasses.fields(Args):
        if not args.tasks and field.name not in NOT_OF_TASKS and getattr(args, field.name) != field.default:
            raise UserError(f'--{field.name.replace("_", "-")} is for tasks; name some with --tasks, or leave it out')
    runtime.prepare_host(workdir)
    if not args.tasks:
        from llm.training.evaluate import evaluate_checkpoint

        options = args.step, args.ema, args.batch_size, args.stride, args.quantize
        print(json.dumps(evaluate_checkpoint(workdir, *options)))
        return
    if args.quantize:
        raise UserError('--quantize is measured on held-out text; leave out --tasks, or --quantize')
    from llm.evaluation import results
    from llm.evaluation.run import evaluate_tasks
    from llm.evaluation.tasks import Settings

    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    found, page = evaluate_tasks(
        workdir,
        args.tasks,
        settings,
        step=args.step,
        ema=args.ema,
        batch_size=args.batch_size,
        again=args.again,
    )
    print(results.table(found))
    print(f'page: {page}; samples beside it', file=sys.stderr)
