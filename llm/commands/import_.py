"""Make a workdir of a model that Hugging Face's transformers saved."""

import pathlib
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Args:
    """The workdir then serves `generate`, `chat`, `evaluate`, and further training through `init_from`."""

    source: Annotated[str, tyro.conf.arg(name='from')]  # folder of the model, or its name on the hub
    workdir: pathlib.Path  # folder to make; must not exist
    dtype: Literal['float32', 'bfloat16', 'float16'] | None = None  # of parameters and products; None is as saved


def run(args: Args) -> None:
    from llm import runtime
    from llm.workdir import Workdir

    runtime.prepare_host()
    from llm.interop.huggingface.workdirs import import_model

    summary = import_model(args.source, Workdir(args.workdir), args.dtype, progress=True)
    print(f'{args.workdir} has the {summary["family"]} model of {args.source}: {summary["parameters"]:,} parameters')
