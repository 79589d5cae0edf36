"""Write text with a trained model: sampling or beam search, streamed to stdout, or for every prompt of a file."""

import dataclasses
import functools
import pathlib
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from llm.errors import UserError


@dataclass(frozen=True)
class Args:
    """`python -m llm generate --workdir DIR --prompt TEXT`. Stdout gets what follows the prompt, not the prompt.

    With --prompts FILE --out FILE: every prompt of a file, many at a time; the same command goes on after a stop.
    """

    workdir: pathlib.Path  # folder of the run whose model writes
    prompt: str | None = None  # text to continue; - reads all of stdin, its last newline included
    prompts: pathlib.Path | None = None  # JSON lines to continue instead: {"prompt": text}, or {"messages": [...]}
    out: pathlib.Path | None = None  # where what is written for --prompts goes, as JSON lines
    slots: int = 16  # texts of --prompts written at a time
    image: tyro.conf.UseAppendAction[tuple[pathlib.Path, ...]] = ()  # file for each <image> in the prompt, in order
    chat: bool = False  # the prompt is a message, and what follows it the answer of a model fine-tuned on conversations
    step: int | None = None  # checkpoint to load, in updates made; None is the last
    ema: bool = False  # load the averaged parameters instead of the raw ones
    quantize: Literal['int8', 'int4'] | None = None  # round weights to so few bits: less memory, mostly faster
    draft: pathlib.Path | None = None  # workdir of a small model with the same tokenizer that drafts: same distribution
    draft_tokens: int = 4  # tokens drafted at a time
    max_new_tokens: int = 128  # most tokens to write; the end-of-sequence token ends earlier
    temperature: float = 1.0  # logits are divided by it; 0 always takes the most probable token
    top_k: int = 0  # draw from this many most probable tokens; 0 is all
    top_p: float = 1.0  # draw from the fewest tokens whose probability reaches this
    min_p: float = 0.0  # draw from tokens at least this fraction as probable as the most probable one
    repetition_penalty: float = 1.0  # above 1 makes tokens that occurred, in the prompt too, less probable
    num_samples: int = 1  # texts to write, with the seeds seed, seed + 1, ...
    best_of: int = 1  # samples drawn for each text written: the one with the highest reward of --reward-models
    reward_models: tyro.conf.UseAppendAction[tuple[pathlib.Path, ...]] = ()  # workdirs of reward models; their mean
    beam_size: int = 0  # beams of a beam search, of which the best text is written; 0 samples instead
    length_penalty: float = 1.0  # beam search: score is log-probability / length in tokens to this power
    seed: int = 0  # of the random numbers
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # text that ends a sample, and is not written
    show_probabilities: bool = False  # first print a table of the most probable next tokens
    past_context: Literal['error', 'slide'] = 'error'  # a full context: refuse, or forget its oldest half and go on


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Args)}
NOT_WITH_BEAMS = (
    'temperature',
    'top_k',
    'top_p',
    'min_p',
    'repetition_penalty',
    'num_samples',
    'best_of',
    'seed',
    'stop',
    'past_context',
    'draft',
)
NOT_WITH_PROMPTS = ('image', 'beam_size', 'best_of', 'show_probabilities', 'past_context', 'draft')
NOT_WITH_IMAGES = ('chat', 'beam_size', 'best_of', 'past_context', 'draft')
ONLY_WITH_PROMPTS = ('out', 'slots')
TABLE_ROWS = 10
BAR_WIDTH = 10  # characters of a probability of 1


def run(args: Args) -> None:
    """Writes to stdout.

    Raises:
        UserError: for settings out of range or that do not combine, a missing run, or a prompt that does not fit.
    """
    from llm import runtime
    from llm.workdir import Workdir

    check(args)
    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from llm.inference.generate import load_generator
    from llm.inference.sampling import SamplingParams

    names = [field.name for field in dataclasses.fields(SamplingParams)]
    try:
        samplings = [
            SamplingParams(**{name: getattr(args, name) for name in names} | {'seed': args.seed + sample})
            for sample in range(args.num_samples * args.best_of)
        ]
    except ValueError as error:
        raise UserError(str(error)) from error
    if args.prompts:
        write_all(args, workdir, samplings[0])
        return
    draft = None if args.draft is None else Workdir.open(args.draft)
    generator = load_generator(workdir, args.step, args.ema, args.chat, args.quantize, draft, args.draft_tokens)
    if generator.reader is not None and (args.best_of > 1 or args.image):
        raise UserError(
            f'{"--image" if args.image else "--best-of"} takes a run whose model reads from left to right, and '
            f'{args.workdir} learned objective {workdir.config().objective.kind}; drop it'
        )
    prompt = sys.stdin.buffer.read() if args.prompt == '-' else args.prompt
    said = iter  # a text as it is
    if args.chat:
        from llm import chat

        said = functools.partial(chat.answer, generator.tokenizer)
        text = prompt.decode('utf-8', 'replace') if isinstance(prompt, bytes) else prompt
        prompt = chat.encode_prompt(generator.tokenizer, [{'role': 'user', 'content': text}])

    if args.image:
        from llm.data import images

        text = prompt.decode('utf-8', 'replace') if isinstance(prompt, bytes) else prompt
        prompt = images.encode_prompt(generator.tokenizer, text, args.image, generator.model.config)

    if args.show_probabilities:
        show(generator, prompt, samplings[0])
    if args.beam_size:
        best, *_ = generator.beam(
            prompt,
            beam_size=args.beam_size,
            max_new_tokens=args.max_new_tokens,
            length_penalty=args.length_penalty,
        )
        print(*said([best.text]))
        return
    if args.best_of > 1:
        write_best(args, generator, prompt, samplings, said)
        return
    for number, sampling in enumerate(samplings, 1):
        if args.num_samples > 1:
            print(f'===== sample {number} of {args.num_samples}, seed {sampling.seed} =====', flush=True)
        pieces = generator.stream(
            prompt, sampling, max_new_tokens=args.max_new_tokens, stop=args.stop, past_context=args.past_context
        )
        for piece in said(pieces):
            print(piece, end='', flush=True)
        print(flush=True)


def check(args: Args) -> None:
    """Refuses what a setting of its own cannot see: numbers of texts and beams, and what does not combine."""
    if (args.prompt is None) == (args.prompts is None):
        raise UserError('what is to be continued? give either --prompt TEXT or --prompts FILE')
    if (args.prompts is None) != (args.out is None):
        raise UserError('--prompts and --out go together: what is written for a file of prompts goes to another')
    alone = NOT_WITH_PROMPTS if args.prompts else ONLY_WITH_PROMPTS
    if given := [option(name) for name in alone if getattr(args, name) != DEFAULTS[name]]:
        raise UserError(f'{", ".join(given)} does not go with {"--prompts" if args.prompts else "--prompt"}; drop it')
    if args.image and (given := [option(name) for name in NOT_WITH_IMAGES if getattr(args, name) != DEFAULTS[name]]):
        raise UserError(f'{", ".join(given)} does not go with --image; drop the one or the other')
    if args.max_new_tokens < 1:
        raise UserError(f'--max-new-tokens is {args.max_new_tokens}; ask for at least 1')
    if args.num_samples < 1:
        raise UserError(f'--num-samples is {args.num_samples}; ask for at least 1')
    if args.best_of < 1:
        raise UserError(f'--best-of is {args.best_of}; ask for at least 1')
    if (args.best_of > 1) != bool(args.reward_models):
        raise UserError('--best-of and --reward-models go together: a reward tells which sample is the best; give both')
    if args.draft_tokens < 1:
        raise UserError(f'--draft-tokens is {args.draft_tokens}; draft at least 1')
    if args.draft_tokens != DEFAULTS['draft_tokens'] and args.draft is None:
        raise UserError('--draft-tokens belongs to speculative decoding; add --draft, or drop it')
    if args.draft is not None and args.past_context != 'error':
        raise UserError('--draft does not combine with --past-context slide; drop the one or the other')
    if args.draft is not None and args.best_of > 1:
        raise UserError('--draft does not combine with --best-of, whose samples are drawn together; drop one of them')
    if args.beam_size < 0:
        raise UserError(f'--beam-size is {args.beam_size}; it must be at least 1, or 0 to sample')
    clashes = NOT_WITH_BEAMS if args.beam_size else ('length_penalty',)
    given = [option(name) for name in clashes if getattr(args, name) != DEFAULTS[name]]
    if given and args.beam_size:
        raise UserError(
            f'{", ".join(given)} and --beam-size do not combine: beams are not drawn or cut; drop the one or the other'
        )
    if given:
        raise UserError('--length-penalty belongs to beam search; add --beam-size, or drop it')


def option(name: str) -> str:
    """How a field is spelled on the command line."""
    return '--' + name.replace('_', '-')


def write_all(args: Args, workdir, sampling) -> None:
    """Writes the file of `--out`; how many texts could not be written on stderr.

    Raises:
        UserError: for a file of prompts that is none, or an output that is there already.
    """
    from llm.inference.generate import load_generator
    from llm.inference.prompt_file import Settings, write_file
    from llm.training.checkpoint import Checkpoints, checked_step

    settings = Settings(sampling, args.max_new_tokens, args.num_samples, args.stop, args.chat)
    step = checked_step(workdir, Checkpoints(workdir.checkpoints), args.step)  # what goes on goes on with this one
    generator = load_generator(workdir, step, args.ema, args.chat, args.quantize)
    source = f'{args.workdir.resolve()} step {step}{" ema" * args.ema}{f" {args.quantize}" if args.quantize else ""}'
    failed = write_file(generator, args.prompts, args.out, settings, source, args.slots)
    if failed:
        print(f'{failed} texts could not be written; their rows in {args.out} say why', file=sys.stderr)


def write_best(args: Args, generator, prompt: str | bytes | list[int], samplings: list, said) -> None:
    """Draws `best_of` samples for each text, and writes the one that the reward models like best; its reward on stderr.

    Raises:
        UserError: if a reward model does not go with this model, or a sample does not fit its context.
    """
    from llm.config import RewardConfig
    from llm.training.rewards import load_judges, score_texts

    config = RewardConfig(models=tuple(map(str, args.reward_models)))
    judges = load_judges(config, generator.tokenizer, generator.model.config.context_length)
    ids = generator.encode(prompt)
    for number in range(args.num_samples):
        drawn = samplings[number * args.best_of : (number + 1) * args.best_of]
        found = generator.generate(
            [ids] * len(drawn), drawn, max_new_tokens=args.max_new_tokens, stop=args.stop, past_context='error'
        )
        rewards = score_texts(judges, config, [[*ids, *completion.ids] for completion in found])
        best = int(rewards.argmax())
        if args.num_samples > 1:
            print(f'===== sample {number + 1} of {args.num_samples}, best of {args.best_of} =====')
        print(*said([found[best].text]), flush=True)
        print(f'reward {rewards[best]:.3f}, from {rewards.min():.3f} to {rewards.max():.3f}', file=sys.stderr)


def show(generator, prompt, sampling) -> None:
    """Prints what the model thinks comes next and, where the settings change it, what they make of it."""
    from llm.inference.sampling import SamplingParams

    plain = SamplingParams(seed=sampling.seed)
    tables = [('Next token, as the model has it', plain), ('Next token, as it is drawn', sampling)]
    for title, params in tables if sampling != plain else tables[:1]:
        print(title)
        for line in table(generator.next_token_table(prompt, TABLE_ROWS, params)):
            print(line)
        print(flush=True)


def table(rows: list[tuple[str, int, float]]) -> list[str]:
    """Lines like `Paris  0.82 ████████` of (piece, id, probability)."""
    width = max(len(piece) for piece, _, _ in rows)
    return [f'{piece:<{width}}  {p:.2f} {"█" * round(p * BAR_WIDTH)}'.rstrip() for piece, _, p in rows]
