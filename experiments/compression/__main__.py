"""How small a language model makes text and pictures that it has not seen (Delétang et al. 2023), beside gzip and PNG.

    python -m experiments.compression [--workdir runs/quickstart] [--out runs/compression]
    python -m experiments.compression --report     # only draw the page again

The notebook, from top to bottom: the held-out files of a run are compressed with its model, as one and each by itself,
and come back; then with several numbers of streams; a model of bytes learns pictures of digits and compresses others.
"""

import json
import pathlib
import sys
from dataclasses import dataclass

from llm.command_line import check_least, parse, script
from llm.errors import UserError

PROGRAM = 'python -m experiments.compression'
RESULTS = 'results.json'


@dataclass(frozen=True)
class Args:
    workdir: pathlib.Path = pathlib.Path('runs/quickstart')  # run whose model compresses its held-out files
    out: pathlib.Path = pathlib.Path('runs/compression')  # folder for digit models and report; trained ones are kept
    seeds: int = 3  # models of digits to train
    quick: bool = False  # little of everything, to see that it works
    report: bool = False  # measure nothing: draw the page of `out` again


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    check_least(args, 1, 'seeds')
    if not args.report:
        measure(args)
    from experiments.compression import report

    results = args.out / RESULTS
    if not results.is_file():
        raise UserError(f'{args.out} has no results; make them with `{PROGRAM} --out {args.out}`')
    found = json.loads(results.read_text(encoding='utf-8'))
    page = report.write(args.out, found)
    print(report.summary(found))
    print(f'\nOpen {page.absolute()}')


def measure(args: Args) -> None:
    """Trains what is not trained, measures everything, and writes the numbers."""
    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from experiments.compression import images, text
    from llm.analysis import pages, units
    from llm.compression.compressor import load
    from llm.environment import code_version, cpu_model, processors

    compressor = load(workdir)
    files, training = text.documents(runtime.stored_config(workdir))
    size = units.size(sum(len(file.text) for file in files))
    print(f'{len(files)} held-out files, {size}, with the model of {args.workdir} …', file=sys.stderr, flush=True)
    found = {
        'text': text.measure(
            compressor, files[:2] if args.quick else files, training, (4,) if args.quick else text.STREAMS
        )
    }
    print('digits …', file=sys.stderr, flush=True)
    learned, held_out = images.digits()
    models = images.models(args.out, learned, args.seeds, 10 if args.quick else images.STEPS)
    found['images'] = images.measure(models, learned, held_out[:20] if args.quick else held_out)
    found['made on'] = {'processor': cpu_model(), 'cores': processors(), 'code': code_version()}
    pages.write_results(args.out, found)


if __name__ == '__main__':
    script(main)
