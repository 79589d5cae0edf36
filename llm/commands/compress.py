"""Compress a file with a trained model: arithmetic coding of its tokens. `decompress` gives it back, bit for bit."""

import pathlib
import sys
import time
from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Args:
    """`python -m llm compress --workdir DIR FILE --out FILE.z`. One line on stdout says how small it became.

    Whoever decompresses needs the same workdir, and the same versions of jax and jaxlib on such a machine.
    """

    file: tyro.conf.Positional[pathlib.Path]  # what to compress: any bytes
    workdir: pathlib.Path  # folder of the run whose model predicts it
    out: pathlib.Path  # archive to write; must not exist
    step: int | None = None  # checkpoint to load, in updates made; None is the last
    ema: bool = False  # load the averaged parameters instead of the raw ones
    streams: int | None = None  # parts coded side by side: more are faster and cost bits; None is by the file's size


def run(args: Args) -> None:
    """Writes the archive.

    Raises:
        UserError: for a file or a run that cannot be used, or an output that is there already.
    """
    from llm import runtime
    from llm.compression import container
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    data = container.read_file(args.file)
    container.check_target(args.out)
    runtime.prepare_host(workdir)
    from llm.compression import archive, compressor, progress

    model = compressor.load(workdir, args.step, args.ema)
    start = time.perf_counter()
    with progress.bar('compressing', len(data)) as tell:
        made = archive.compress(model, data, args.streams, tell)
    container.write_file(args.out, made.data)
    print(progress.summary(args.out, made, time.perf_counter() - start))
    if made.header.coding is None and data:
        print('the model makes this file no smaller; the archive holds it as it is', file=sys.stderr)
