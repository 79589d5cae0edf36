"""Answer many prompts several times, score the answers, write them best first: data for DPO or a reward model."""

import json
import pathlib
from dataclasses import dataclass

from llm.config import RewardConfig, RolloutConfig
from llm.errors import UserError


@dataclass(frozen=True)
class Args:
    """`python -m llm rank --workdir DIR --prompts SOURCE --reward.function FUNCTION --out FILE`."""

    workdir: pathlib.Path  # folder of the run whose model answers
    prompts: str  # rows of prompts: jsonl:GLOB, tfds:NAME or task:NAME
    out: pathlib.Path  # file to write: a ranking a line, as JSON
    reward: RewardConfig = RewardConfig()  # how answers are scored
    samples: int = 4  # answers to each prompt
    max_prompts: int | None = None  # only so many prompts, chosen by the seed; None is all
    max_prompt_tokens: int | None = None  # leave out longer prompts; None leaves out what the context has no room for
    held_out: bool = False  # the prompts that are held out, instead of those to train on
    max_new_tokens: int = 128  # longest answer in tokens, its end included
    temperature: float = 1.0  # logits are divided by it
    seed: int = 0  # of the choice of prompts and of the answers
    step: int | None = None  # checkpoint to load, in updates made; None is the last
    ema: bool = False  # load the averaged parameters instead of the raw ones


def run(args: Args) -> None:
    """Writes the file, and one line to stdout about what is in it.

    Raises:
        UserError: if the run, the prompts or the rewards cannot be used, or no prompt has answers that differ.
    """
    from llm import runtime
    from llm.workdir import Workdir, write_atomically

    workdir = Workdir.open(args.workdir)
    if not (args.reward.function or args.reward.models):
        raise UserError('rank needs something to rank by; give --reward.function or --reward.models')
    if args.samples < 2:
        raise UserError(f'--samples is {args.samples}; a ranking needs at least 2 answers')
    for name in ('max_prompts', 'max_prompt_tokens'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f'--{name.replace("_", "-")} is {getattr(args, name)}; ask for at least 1')
    if args.seed < 0:
        raise UserError(f'--seed is {args.seed}; it must be at least 0')
    try:
        rolled = RolloutConfig(args.samples, args.max_new_tokens, args.temperature)
    except ValueError as error:
        raise UserError(str(error)) from error
    runtime.prepare_host(workdir)
    from llm.training.answers import draw_answers, rankings

    answers = draw_answers(
        workdir,
        args.prompts,
        rolled,
        args.reward,
        held_out=args.held_out,
        max_prompts=args.max_prompts,
        max_prompt_tokens=args.max_prompt_tokens,
        seed=args.seed,
        step=args.step,
        ema=args.ema,
    )
    rows = rankings(answers)
    if not rows:
        raise UserError(
            f'the answers to each of the {len(answers.prompts)} prompts all have the same score, so there is nothing '
            'to prefer; raise --samples or --temperature, or refine the reward'
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))
    print(
        f'{args.out}: {len(rows)} rankings; of {len(answers.prompts)} prompts x {args.samples} answers, mean score '
        f'{answers.scores.mean():.3f}, of the best {answers.scores.max(axis=1).mean():.3f}, '
        f'{answers.ended.mean():.1%} ended'
    )
