"""Give back, bit for bit, the file that `compress` made an archive of."""

import pathlib
import time
from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Args:
    """`python -m llm decompress --workdir DIR FILE.z --out FILE`. Writes nothing unless all of it is right."""

    file: tyro.conf.Positional[pathlib.Path]  # archive that `compress` wrote
    workdir: pathlib.Path  # folder of the run that it was made with
    out: pathlib.Path  # file to write; must not exist


def run(args: Args) -> None:
    """Writes the file.

    Raises:
        UserError: for a file that is no archive, or is damaged, or was made with another model or in other
            circumstances, or an output that is there already.
        MachineError: if this machine computes other probabilities than the one that made the archive.
    """
    from llm import runtime
    from llm.compression import container
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    opened = container.from_bytes(container.read_file(args.file), str(args.file))
    container.check_target(args.out)
    coding = opened.header.coding
    runtime.prepare_host(workdir, None if coding is None else coding.numerics['host_threads'])
    from llm.analysis import units
    from llm.compression import archive, progress

    start = time.perf_counter()
    with progress.bar('decompressing', opened.header.size) as tell:
        data = archive.decompress(workdir, opened, tell)
    container.write_file(args.out, data)
    seconds = time.perf_counter() - start
    print(f'{args.out}: {len(data):,} bytes, as they were (SHA-256 equal), in {units.duration(seconds)}')
