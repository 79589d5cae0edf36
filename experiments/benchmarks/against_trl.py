"""Our post-training steps against TRL's, on this machine, in one run.

    python experiments/benchmarks/against_trl.py --trl-python PATH --out FOLDER

A tiny Llama with the same weights, rows and rewards is on both sides. Three jobs: an optimisation step of DPO, one of
GRPO, and a rollout. Each side is a child process that stays alive; they take turns, round by round, so that whatever
else the machine does hits all of them. A round's ratio is the seconds of TRL's best variant over those of ours (of a
rollout: seconds per token drawn): above 1, ours is faster. The best variant is the one with the lowest median. Before
anything is timed, both sides train from the same parameters in float32, and losses and norms of gradients must agree.
The result is a table, one JSON file and one Markdown file.

Waiting threads sleep on TRL's side (`--active` lets them spin, OpenMP's default): on a machine that does other work
spinning costs several times the step, on an idle one it gains little.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from against_pytorch import Child, machine, ratio_of
from post_training_batches import SHAPES

HERE = Path(__file__).parent
OURS = {'ours bfloat16': {'compute_dtype': 'bfloat16'}, 'ours float32': {'compute_dtype': 'float32'}}
TRL = {
    'TRL float32': ['--dtype', 'float32'],
    'TRL bfloat16': ['--dtype', 'bfloat16'],
    'TRL float32 compiled': ['--dtype', 'float32', '--compile'],
    'TRL bfloat16 compiled': ['--dtype', 'bfloat16', '--compile'],
    'TRL float32 continuous': ['--dtype', 'float32', '--continuous'],
}
JOBS = {'dpo': 'DPO step', 'grpo': 'GRPO step', 'rollout': 'rollout'}
SLOW = 3  # times the time of the best variant of its side: left out
TOLERANCE = 1e-3  # relative, between the float32 losses and gradient norms of the first steps


def runs(name: str, job: str) -> bool:
    """Continuous batching is a way to generate; the trunk is compiled for training, where shapes stay."""
    return ('continuous' in name) <= (job == 'rollout') and ('compiled' in name) <= (job != 'rollout')


def start(name: str, shape: dict, arguments) -> Child:
    common = ['--shape', json.dumps(shape), '--threads', str(arguments.threads)]
    if name in OURS:
        script = str(HERE / 'glassbox_post_training.py')
        return Child([sys.executable, script, '--settings', json.dumps(OURS[name] | arguments.settings), *common])
    environment = {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': str(arguments.threads)}
    if not arguments.active:
        environment |= {'OMP_WAIT_POLICY': 'PASSIVE', 'GOMP_SPINCOUNT': '0'}
    return Child([arguments.trl_python, str(HERE / 'trl_post_training.py'), *TRL[name], *common], environment)


def same_training(shape: dict, arguments) -> dict:
    """Losses and norms of the gradients of three float32 steps of each objective, from the same parameters.

    Raises:
        RuntimeError: if the sides differ: then the timings would compare different things.
    """
    ours, theirs = start('ours float32', shape, arguments), start('TRL float32', shape, arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'parameters.npz'
        ours.ask(f'save {path}')
        theirs.ask(f'load {path}')
    found = {}
    for job in ('dpo', 'grpo'):
        found[job] = {'ours': ours.ask(f'losses {job} 3'), 'TRL': theirs.ask(f'losses {job} 3')}
        for name in ('loss', 'grad_norm'):
            if not np.allclose(found[job]['ours'][name], found[job]['TRL'][name], rtol=TOLERANCE, atol=0):
                raise RuntimeError(f'the two sides train different models: {found[job]}')
    if ours.versions['parameters'] != theirs.versions['parameters']:
        raise RuntimeError(f'the two sides have different models: {ours.versions}, {theirs.versions}')
    ours.close()
    theirs.close()
    return found


def measure(shape: dict, arguments) -> dict:
    """Turns of every variant at every job, round by round; what could not run, and why."""
    children, versions, missing = {}, {}, {}
    for name in [*OURS, *TRL]:
        try:
            children[name] = start(name, shape, arguments)
            versions[name] = children[name].versions
        except RuntimeError as error:
            missing[name] = str(error)
    found = {}
    for job in JOBS:
        pace = {}
        for name in [name for name in children if runs(name, job)]:
            try:
                children[name].ask(f'time {job} 1')  # compiles
                pace[name] = min(children[name].ask(f'time {job} 2')['seconds'])
            except RuntimeError as error:
                missing[f'{name}, {job}'] = str(error)
                del children[name]
        for side in ('ours', 'TRL'):  # a variant that cannot be the best one is not waited for
            best = min(seconds for name, seconds in pace.items() if name.startswith(side))
            for name in [name for name in pace if name.startswith(side) and pace[name] > SLOW * best]:
                missing[f'{name}, {job}'] = f'it takes {pace.pop(name) / best:.1f} times the time of the best'
        steps = {name: max(1, round(arguments.seconds / seconds)) for name, seconds in pace.items()}
        rounds = []
        for _ in range(arguments.rounds):
            turn = {}
            for name, number in steps.items():
                if number > 1:
                    children[name].ask(f'time {job} 1')  # its data and its threads come back
                answer = children[name].ask(f'time {job} {number}')
                each = answer['tokens'] / number or 1
                turn[name] = {
                    'seconds': statistics.median(answer['seconds']),
                    'fastest': min(answer['seconds']),
                    'cpu_seconds': answer['cpu_seconds'] / number,
                    'per_second': each / statistics.median(answer['seconds']),
                }
            rounds.append(turn)
        found[job] = {'rounds': rounds, **summary(rounds)}
        print(f'{job}: {found[job]["ratio"]:.2f}', file=sys.stderr)
    for child in children.values():
        child.close()
    return {'jobs': found, 'missing': missing, 'versions': versions}


def summary(rounds: list[dict]) -> dict:
    """What each variant took, and the ratio of the best ones, round by round."""
    names = list(rounds[0])
    column = lambda name, key: [turn[name][key] for turn in rounds]
    rows = {
        name: {key: statistics.median(column(name, key)) for key in rounds[0][name]}
        | {'fastest': min(column(name, 'fastest'))}
        for name in names
    }
    best = lambda side: max((name for name in names if name.startswith(side)), key=lambda n: rows[n]['per_second'])
    ours, theirs = best('ours'), best('TRL')
    time = lambda name: [1 / value for value in column(name, 'per_second')]
    of_fastest = rows[theirs]['fastest'] / rows[ours]['fastest']
    return {'rows': rows, 'ours': ours, 'TRL': theirs, **ratio_of(time(ours), time(theirs)), 'of_fastest': of_fastest}


def as_markdown(report: dict) -> str:
    about = ', '.join(f'{name} {value}' for name, value in report['machine'].items())
    lines = ['# Post-training against TRL', '', about, '', report['what'], '']
    for name, result in report['shapes'].items():
        lines += [f'## {name}: ' + ', '.join(f'{key} {value}' for key, value in result['shape'].items()), '']
        for job, found in result['jobs'].items():
            unit = 'tokens/s' if job == 'rollout' else 'steps/s'
            lines += [f'| {JOBS[job]} | ms (median) | fastest | CPU ms | {unit} |', '|---|---|---|---|---|']
            for side, row in found['rows'].items():
                times = ' | '.join(f'{1e3 * row[key]:,.1f}' for key in ('seconds', 'fastest', 'cpu_seconds'))
                lines.append(f'| {side} | {times} | {row["per_second"]:,.{0 if job == "rollout" else 2}f} |')
            interval = f'{found["low"]:.2f} to {found["high"]:.2f}'
            lines += ['', f'**{found["ratio"]:.2f}** ({interval}): {found["ours"]} against {found["TRL"]}; of the']
            lines[-1] += f' fastest single ones {found["of_fastest"]:.2f}.'
            lines += ['']
        lines += [f'Left out: {side}: {reason}' for side, reason in result['missing'].items()] + ['']
    return '\n'.join(lines).rstrip() + '\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--trl-python', required=True, help='the Python of the environment of requirements-trl.txt')
    parser.add_argument('--out', type=Path, required=True, help='folder for against_trl.json and .md')
    parser.add_argument('--shapes', nargs='+', choices=SHAPES, default=['tiny', 'small'])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--seconds', type=float, default=1.0, help='length of one turn; at least one step is made')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--active', action='store_true', help="TRL's idle threads spin, as on an idle machine they may")
    parser.add_argument('--settings', type=json.loads, default={}, help='fields of our ModelConfig to change, as JSON')
    arguments = parser.parse_args()
    report = {'machine': machine() | {'threads': arguments.threads}, 'shapes': {}}
    report['what'] = (
        'Full steps (forward, backward, clip to norm 1, AdamW) and rollouts of a Llama with tied embeddings. '
        f'{arguments.rounds} rounds, turns of {arguments.seconds} s; the ratio is our steps/s or tokens/s over that of '
        "TRL's best variant, median over rounds with a 95% bootstrap interval."
    )
    for name in arguments.shapes:
        shape = SHAPES[name]
        agreed = same_training(shape, arguments)
        report['shapes'][name] = {'shape': shape, 'agreed': agreed, **measure(shape, arguments)}
        versions = {}
        for side in report['shapes'][name]['versions'].values():
            versions |= {key: side[key] for key in ('jax', 'torch', 'transformers', 'trl', 'python') if key in side}
        report['machine'] |= versions
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / 'against_trl.json').write_text(json.dumps(report, indent=1) + '\n')
        (arguments.out / 'against_trl.md').write_text(as_markdown(report))
    print(as_markdown(report))


if __name__ == '__main__':
    main()
