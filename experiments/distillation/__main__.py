"""Train a teacher, then small models with and without it over paired seeds, and say what it was worth."""

import json
import pathlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm.command_line import parse, script
from llm.errors import UserError
from llm.sweep.options import SweepOptions

if TYPE_CHECKING:
    from llm.ablation.results import Results
    from llm.config import Config
    from llm.workdir import Workdir

PROGRAM = 'python -m experiments.distillation'


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/distillation')  # folder for runs and report; what is done is not done again
    teacher: pathlib.Path | None = None  # workdir of a trained model to learn from; None trains one
    seeds: int = 4  # runs of each arm, paired: seed i has one start and one order of data in all of them
    scale: float = 1.0  # of all steps; 0.1 to see that it works
    report: bool = False  # only write the report of `out` again, from the runs that are there


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    if not args.scale > 0:
        raise UserError(f'--scale is {args.scale:g}; it must be positive')
    from llm import runtime

    runtime.prepare_host()
    from experiments.distillation import plan

    if not args.report:
        train(args, plan.STUDENT, plan.TEACHER)
    report(args.out)


def train(args: Args, student: 'Config', teacher: 'Config') -> None:
    """Trains what is not done yet: the teacher, one that has learned nothing, and the students."""
    from experiments.distillation import plan
    from llm.ablation import plan as machinery
    from llm.training.loop import train
    from llm.workdir import Workdir

    machinery.check_seeds(args.seeds)
    student, teacher = (
        machinery.stretched(one, max(2, round(args.scale * one.training.steps))) for one in (student, teacher)
    )
    workdir = args.out / 'teacher'
    if args.teacher is None:
        train(teacher, workdir, args.progress)
    else:
        workdir = args.teacher
        check_teacher(Workdir.open(workdir))
        teacher = Workdir(workdir).config()
        student = taught_by(student, teacher)
    summary = Workdir(workdir).summary()
    train(plan.untrained(teacher), args.out / 'untrained', args.progress)
    about = plan.about_teacher(student, teacher, summary['held_out']['bits_per_byte'])
    question = plan.ablation(student, workdir, args.out / 'untrained', about)
    (args.out / 'teacher.json').write_text(json.dumps({'workdir': str(workdir), 'held_out': summary['held_out']}))
    machinery.run('distillation', question, args.out / 'students', seeds=args.seeds, options=args)


def check_teacher(workdir: 'Workdir') -> None:
    """Raises UserError for a model of which it is not known how well it predicts held-out text of its own corpora."""
    kind = workdir.config().objective.kind
    if kind != 'next_token':
        raise UserError(f'{workdir.path} learned objective {kind}; name a teacher that was pretrained (next_token)')
    if 'held_out' not in workdir.summary():
        raise UserError(
            f'{workdir.path} has no measure of held-out text, so it was imported or is not done; name a teacher that '
            'was trained here to its end'
        )


def taught_by(student: 'Config', teacher: 'Config') -> 'Config':
    """The student as another teacher can teach it: of its vocabulary, on its text."""
    from llm import config_json

    same = {name: getattr(teacher.data, name) for name in ('corpora', 'text_field', 'bad_bytes')}
    values = {'model.vocab_size': teacher.model.vocab_size, 'tokenizer': teacher.tokenizer}
    return config_json.override(student, values | {f'data.{name}': value for name, value in same.items()})


def report(out: pathlib.Path) -> dict[str, Any]:
    """Writes the page and the numbers, and prints the verdicts."""
    from llm.ablation import report as ablation_report
    from llm.ablation import results as ablation_results
    from llm.workdir import write_atomically

    results = ablation_results.read(out / 'students')
    page, _ = ablation_report.write(results)
    for one in results.comparisons:
        print(f'{one.arm.label}: {one.verdict}')
    said = {'teacher': json.loads((out / 'teacher.json').read_text()), 'gap_closed': gap_closed(out, results)}
    write_atomically(out / 'results.json', json.dumps(said | ablation_report.as_json(results), indent=1) + '\n')
    for label, part in said['gap_closed'].items():
        print(f'{label}: {part:.0%} of the way from the student alone to the teacher')
    print(results.summary)
    print(page)
    return said


def gap_closed(out: pathlib.Path, results: 'Results') -> dict[str, float]:
    """How much of the distance from the student alone to the teacher each arm covers, by their mean bits per byte."""
    teacher = json.loads((out / 'teacher.json').read_text())['held_out']['bits_per_byte']
    alone = results.base.interval
    done = [one for one in results.comparisons if one.difference is not None]
    return {one.arm.label: one.difference.mean / (teacher - alone.mean) for one in done} if alone else {}


if __name__ == '__main__':
    script(main)
