"""Talk with a trained model in the terminal; answers are streamed. Lines may also come from a pipe, one turn each."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.errors import UserError


@dataclass(frozen=True)
class Args:
    """`python -m llm chat --workdir DIR`. Stdout gets the answers; /help lists what can be said besides."""

    workdir: pathlib.Path  # folder of the run whose model answers
    system: str = ''  # system message, which the model reads before everything else
    step: int | None = None  # checkpoint to load, in updates made; None is the last
    ema: bool = False  # load the averaged parameters instead of the raw ones
    quantize: Literal['int8', 'int4'] | None = None  # round weights to so few bits: less memory, mostly faster
    draft: pathlib.Path | None = None  # workdir of a small model with the same tokenizer that drafts: same distribution
    max_new_tokens: int | None = (
        None  # most tokens of an answer; None is half of the model's context, the most there is
    )
    temperature: float = 0.7  # logits are divided by it; 0 always takes the most probable token
    top_k: int = 0  # draw from this many most probable tokens; 0 is all
    top_p: float = 1.0  # draw from the fewest tokens whose probability reaches this
    min_p: float = 0.0  # draw from tokens at least this fraction as probable as the most probable one
    repetition_penalty: float = 1.0  # above 1 makes tokens that occurred in the conversation less probable
    seed: int = 0  # of the first answer; the next has the next


BLOCK = '"""'
HELP = f"""\
/temperature X   draw answers at this temperature; 0 is always the most probable token
/system TEXT     set the system message; without TEXT, remove it
/regenerate      take the last answer back and draw another
/reset           forget what was said
/help            this
/exit            end (or Ctrl-D); Ctrl-C stops an answer
{BLOCK}              begins a message of several lines, and ends it"""


def run(args: Args) -> None:
    """Reads turns from stdin until it ends, writes answers to stdout.

    Raises:
        UserError: for settings out of range, a missing run; when stdin is not a terminal, for a line that cannot be
            answered too.
    """
    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from llm.inference.conversation import Conversation
    from llm.inference.generate import load_generator

    sampling = _sampling(args)
    draft = None if args.draft is None else Workdir.open(args.draft)
    generator = load_generator(workdir, args.step, args.ema, True, args.quantize, draft)
    conversation = Conversation(generator, sampling, max_new_tokens=args.max_new_tokens, system=args.system)
    learned = {
        'next_token': 'to continue texts',
        'distillation': 'to continue texts',
        'reward_model': 'to judge answers',
    }
    if (kind := workdir.config().objective.kind) in learned:
        _tell(f'{args.workdir} has learned {learned[kind]}, not to answer: expect anything')
    _talk(conversation, sys.stdin.isatty())


def _talk(conversation, interactive: bool) -> None:
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, gives `input` editing and a history
        _tell('/help lists the commands, Ctrl-D ends')
    else:
        sys.stdin.reconfigure(errors='surrogateescape')  # bytes that are not UTF-8 pass through
    for text, is_command in _turns(interactive):
        if is_command and text in ('/exit', '/quit'):
            return
        forgotten = conversation.forgotten
        try:
            pieces = _command(conversation, text) if is_command else conversation.ask(text)
            if conversation.forgotten > forgotten:
                _tell(f'(the oldest {conversation.forgotten} messages no longer fit the context)')
            if pieces is not None:
                _show(pieces, interactive)
        except UserError as error:
            if not interactive:
                raise
            _tell(str(error))


def _turns(interactive: bool) -> Iterator[tuple[str, bool]]:
    """What the user says that is not blank, turn by turn, and whether it is a command. A block never is one."""
    while True:
        try:
            turn = _line('> ', interactive)
            block = turn.startswith(BLOCK)
            if block:
                turn = turn.removeprefix(BLOCK)
                while not turn.endswith(BLOCK):
                    turn += '\n' + _line('. ', interactive)
                turn = turn.removesuffix(BLOCK).strip('\n')
        except EOFError:
            if interactive:
                print()
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            print()  # as a shell: the line is given up
            continue
        if turn.strip():
            yield turn, turn.startswith('/') and not block


def _line(prompt: str, interactive: bool) -> str:
    """One line of stdin without its end; raises EOFError where there is none."""
    if interactive:
        return input(prompt).rstrip()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip()


def _command(conversation, line: str) -> Iterator[str] | None:
    """Does what a line that starts with a slash says. Returns the pieces of an answer, if that was asked for."""
    name, _, argument = line.partition(' ')
    argument = argument.strip()
    if name == '/temperature':
        try:
            conversation.sampling = dataclasses.replace(conversation.sampling, temperature=float(argument))
        except ValueError as error:
            raise UserError(f'/temperature takes a number of at least 0, not {argument!r}') from error
    elif name == '/system':
        conversation.system = argument
    elif name == '/regenerate':
        return conversation.regenerate()
    elif name == '/reset':
        conversation.reset()
    elif name == '/help':
        _tell(HELP)
    else:
        commands = ', '.join(line.split()[0] for line in HELP.splitlines() if line.startswith('/'))
        raise UserError(f'there is no {name}; the commands are {commands}; in {BLOCK}quotes{BLOCK} it is a message')
    return None


def _show(pieces: Iterator[str], interactive: bool) -> None:
    """Prints an answer as it comes, and the end of its line; Ctrl-C stops it."""
    try:
        for piece in pieces:
            print(piece, end='', flush=True)
    except KeyboardInterrupt:
        if not interactive:
            raise
    print(flush=True)


def _tell(text: str) -> None:
    """Says something that is not part of an answer."""
    print(text, file=sys.stderr, flush=True)


def _sampling(args: Args):
    from llm.inference.sampling import SamplingParams

    try:
        return SamplingParams(**{field.name: getattr(args, field.name) for field in dataclasses.fields(SamplingParams)})
    except ValueError as error:
        raise UserError(str(error)) from error
