"""What happens to the gold reward when a learned one is optimised (Gao et al. 2022), in 20 minutes on two cores.

    python -m experiments.rlhf [--out runs/rlhf] [--quick]
    python -m experiments.rlhf --report     # only draw the page again, from what is stored

The notebook, from top to bottom: a demonstrator teaches the SFT model; its responses to held-out prompts are the pool
for best-of-n; a noisy labeller compares its responses to training prompts; reward models learn from the labels, on
three sizes of data and several times on the smallest; DPO learns from the same labels; PPO and GRPO learn from the
reward models, with KL penalties and without, and from what an ensemble agrees on. Each stage is stored when it is done.
"""

import dataclasses
import pathlib
from dataclasses import dataclass

from experiments.rlhf import plan as plans
from llm.command_line import parse, script

PROGRAM = 'python -m experiments.rlhf'
STAGES = ('sft', 'pool', 'preferences', 'reward_models', 'dpo', 'ppo', 'grpo', 'ensembles')


@dataclass(frozen=True)
class Args:
    out: pathlib.Path = pathlib.Path('runs/rlhf')  # folder for stages and report; one that was stopped goes on in it
    quick: bool = False  # one seed and little of everything, to see that it works
    report: bool = False  # measure nothing: draw the page of `out` again


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    if not args.report:
        measure(args.out, plans.QUICK if args.quick else plans.FULL)
    page, claims = report(args.out)
    for claim in claims:
        print(f'{claim.verdict}: {claim.title}')
    print(page)


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
    script(main)
