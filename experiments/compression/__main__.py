"""How small a language model makes text and pictures that it has not seen (Delétang et al. 2023), beside gzip and PNG.

    python -m experiments.compression [--workdir runs/quickstart] [--out runs/compression]
    python -m experiments.compression --report runs/compression     # only draw the page again

The notebook, from top to bottom: the held-out files of a run are compressed with its model, as one and each by itself,
and come back; then with several numbers of streams; a model of bytes learns pictures of digits and compresses others.
"""

import argparse
import json
import pathlib
import sys

from llm.command_line import guarded
from llm.errors import UserError

RESULTS = 'results.json'


def main() -> None:
    """Does what was asked for on the command line; `guarded` turns what it raises into one line and an exit code."""
    parser = argparse.ArgumentParser(prog='python -m experiments.compression', description=__doc__.split('\n')[0])
    parser.add_argument(
        '--workdir', default='runs/quickstart', metavar='DIR', help='run whose model compresses its held-out files'
    )
    parser.add_argument(
        '--out',
        type=pathlib.Path,
        default=pathlib.Path('runs/compression'),
        metavar='DIR',
        help='folder for the digit models, results and report; a model that is trained is not trained again',
    )
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='models of digits to train')
    parser.add_argument('--quick', action='store_true', help='little of everything, to see that it works')
    parser.add_argument('--report', type=pathlib.Path, metavar='DIR', help='only draw the page of this folder again')
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        raise UserError(f'--seeds is {arguments.seeds}; it must be at least 1')
    out = arguments.report or arguments.out
    if arguments.report is None:
        measure(out, arguments.workdir, arguments.seeds, arguments.quick)
    from experiments.compression import report

    results = out / RESULTS
    if not results.is_file():
        raise UserError(f'{out} has no results; make them with `python -m experiments.compression --out {out}`')
    found = json.loads(results.read_text(encoding='utf-8'))
    page = report.write(out, found)
    print(report.summary(found))
    print(f'\nOpen {page.absolute()}')


def measure(out: pathlib.Path, run: str, seeds: int, quick: bool) -> None:
    """Trains what is not trained, measures everything, and writes the numbers."""
    from llm import runtime
    from llm.workdir import Workdir, write_atomically

    workdir = Workdir.open(run)
    runtime.prepare_host(workdir)
    from experiments.compression import images, text
    from llm.analysis import units
    from llm.compression.compressor import load
    from llm.environment import code_version, cpu_model, processors

    compressor = load(workdir)
    files, training = text.documents(runtime.stored_config(workdir))
    size = units.size(sum(len(file.text) for file in files))
    print(f'{len(files)} held-out files, {size}, with the model of {run} …', file=sys.stderr, flush=True)
    found = {'text': text.measure(compressor, files[:2] if quick else files, training, (4,) if quick else text.STREAMS)}
    print('digits …', file=sys.stderr, flush=True)
    learned, held_out = images.digits()
    models = images.models(out, learned, seeds, 10 if quick else images.STEPS)
    found['images'] = images.measure(models, learned, held_out[:20] if quick else held_out)
    found['made on'] = {'processor': cpu_model(), 'cores': processors(), 'code': code_version()}
    write_atomically(out / RESULTS, json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    sys.exit(guarded(main, debug=False))
