"""Ask models about people they have read of and about strangers: how often are they confidently wrong, and does
teaching them to abstain help?"""

import json
import pathlib
from dataclasses import dataclass
from typing import Any

from llm.command_line import check_least, parse, script
from llm.errors import UserError

PROGRAM = 'python -m experiments.facts'


@dataclass(frozen=True)
class Args:
    out: pathlib.Path = pathlib.Path('runs/facts')  # folder for worlds, runs and report; what is done is not done again
    seeds: int = 4  # worlds, each with runs of its own
    quick: bool = False  # few people and few steps, to see that it works
    report: bool = False  # train nothing: draw the page of `out` again
    progress: bool = True  # draw progress bars on stderr


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    check_least(args, 1, 'seeds')
    from llm import runtime

    runtime.prepare_host()
    from experiments.facts import report

    results = read(args.out) if args.report else measure(args)
    print(report.table(results))
    for sentence in report.sentences(results):
        print(sentence)
    print(report.write(args.out, results))


def read(out: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((out / 'results.json').read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{out} has no results yet ({error}); measure some with `{PROGRAM} --out {out}`') from error


def measure(args: Args) -> dict[str, Any]:
    """Trains what is not trained yet, seed by seed, and asks all models everything."""
    import dataclasses

    from experiments.facts import measure as measuring
    from experiments.facts import plan as plans
    from llm.evaluation import subject
    from llm.training.loop import train
    from llm.workdir import Workdir

    plan = plans.QUICK if args.quick else plans.Plan()
    found = {'rates': {}, 'thresholds': [], 'examples': [], 'reliability': {}}
    everything: dict[str, list[Any]] = {}
    for seed in range(plans.FIRST, plans.FIRST + args.seeds):
        folder = args.out / f'seed-{seed}'
        people = plans.make_world(plan, seed)
        if not (folder / 'data' / 'facts.jsonl').is_file():
            plans.write_data(plan, seed, folder / 'data')
        known, strangers, tuning = {}, {}, {}
        for arm in plans.ARMS:
            train(plans.config(plan, seed, arm, folder / 'data', folder / 'facts'), folder / arm, args.progress)
            model = subject.load(Workdir(folder / arm))
            known[arm] = measuring.ask(model, people.known_test)
            strangers[arm] = measuring.ask(model, people.stranger_test)
            if arm == 'facts':
                tuning = [measuring.ask(model, some) for some in (people.known_tuning, people.stranger_tuning)]
        threshold = measuring.best_threshold(*tuning)
        found['thresholds'].append(threshold)
        known, strangers = (
            {name: one for arm in plans.ARMS for name, one in _ways(measuring, arm, asked, threshold)}
            for asked in (known, strangers)
        )
        for name in known:
            found['rates'].setdefault(name, []).append(measuring.rates(known[name], strangers[name]))
            everything.setdefault(name, []).extend([known[name], strangers[name]])
        if seed == plans.FIRST:
            found['examples'] = measuring.examples(people, known, strangers, 5)
    found['reliability'] = {name: measuring.reliability_rows(asked) for name, asked in everything.items()}
    return found | {
        'facts': {
            'worlds': f'{args.seeds}, from {plans.FIRST} on',
            **{name.replace('_', ' '): value for name, value in dataclasses.asdict(plan).items()},
            'a confident answer has at least': plans.CONFIDENT,
            'bins of the calibration error': measuring.BINS,
        }
    }


def _ways(measuring, arm, asked, threshold):
    """A model's own answers; those of the untuned one also as they are with a threshold."""
    yield arm, asked[arm]
    if arm == 'facts':
        yield 'threshold', measuring.cautious(asked[arm], threshold)


if __name__ == '__main__':
    script(main)
