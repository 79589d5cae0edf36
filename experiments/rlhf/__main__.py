"""What happens to the gold reward when a learned one is optimised (Gao et al. 2022), in 20 minutes on two cores.

    python -m experiments.rlhf [--out runs/rlhf] [--quick]
    python -m experiments.rlhf --report runs/rlhf     # only draw the page again, from what is stored

The notebook, from top to bottom: a demonstrator teaches the SFT model; its responses to held-out prompts are the pool
for best-of-n; a noisy labeller compares its responses to training prompts; reward models learn from the labels, on
three sizes of data and several times on the smallest; DPO learns from the same labels; PPO and GRPO learn from the
reward models, with KL penalties and without, and from what an ensemble agrees on. Each stage is stored when it is done.
"""

import argparse
import dataclasses
import pathlib
import sys

from experiments.rlhf import plan as plans
from llm.errors import MachineError, UserError

STAGES = ('sft', 'pool', 'preferences', 'reward_models', 'dpo', 'ppo', 'grpo', 'ensembles')


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m experiments.rlhf', description=__doc__.split('\n')[0])
    parser.add_argument(
        '--out',
        type=pathlib.Path,
        metavar='DIR',
        default=pathlib.Path('runs/rlhf'),
        help='folder for results and report; a run that was stopped goes on in it',
    )
    parser.add_argument('--quick', action='store_true', help='one seed and little of everything, to see that it works')
    parser.add_argument('--report', type=pathlib.Path, metavar='DIR', help='only draw the report of this folder again')
    arguments = parser.parse_args()
    try:
        if arguments.report is None:
            measure(arguments.out, plans.QUICK if arguments.quick else plans.FULL)
        page, claims = report(arguments.report or arguments.out)
        for claim in claims:
            print(f'{claim.verdict}: {claim.title}')
        print(page)
    except (UserError, MachineError) as error:
        print('error:', *str(error).split(), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from the last stage that is done', file=sys.stderr)
        sys.exit(130)


def measure(out: pathlib.Path, plan: plans.Plan) -> None:
    """Runs the stages that are not stored yet."""
    from llm.runtime import prepare_host

    prepare_host()  # before jax is imported: it fixes the number of threads
    from experiments.rlhf import stages
    from experiments.rlhf.store import Store

    out.mkdir(parents=True, exist_ok=True)
    (out / 'plan.json').write_text(plans.to_json(plan))
    stage = Store(out / 'stages', dataclasses.asdict(plan)).stage
    sft = stage('sft', lambda: stages.sft(plan))['params']
    pool = stage('pool', lambda: stages.pool(plan, sft))
    preferences = stage('preferences', lambda: stages.preferences(plan, sft, pool))
    rewards = stage('reward_models', lambda: stages.reward_models(plan, sft, preferences, pool))
    stage('dpo', lambda: stages.dpo(plan, sft, preferences))
    stage('ppo', lambda: stages.ppo(plan, sft, rewards))
    stage('grpo', lambda: stages.grpo(plan, sft, rewards))
    stage('ensembles', lambda: stages.ensembles(plan, sft, rewards))


def report(out: pathlib.Path):
    """Draws the page of a folder; returns its path and the claims."""
    from experiments.rlhf import report as page
    from experiments.rlhf import store
    from experiments.rlhf.curves import Curves
    from experiments.rlhf.findings import claims

    stages, times = store.read(out / 'stages', STAGES)
    curves = Curves(plans.from_json((out / 'plan.json').read_text()), stages)
    return page.write(out, curves, times), claims(curves)


if __name__ == '__main__':
    main()
