"""Answer over HTTP with a trained model, in the form of OpenAI's API."""

import pathlib
from dataclasses import dataclass
from typing import Literal

import tyro

from llm.errors import UserError
from llm.serving.address import Address


@dataclass(frozen=True)
class Args:
    """`python -m llm serve --workdir DIR`. One line on stdout says when and where it answers; stderr logs requests."""

    workdir: pathlib.Path  # folder of the run whose model answers
    address: tyro.conf.OmitArgPrefixes[Address] = Address()
    name: str | None = None  # the model's name for clients; None is the workdir's
    step: int | None = None  # checkpoint to load, in updates made; None is the last
    ema: bool = False  # load the averaged parameters instead of the raw ones
    quantize: Literal['int8', 'int4'] | None = None  # round weights to so few bits: less memory, mostly faster
    slots: int = 16  # texts written at a time
    max_queue: int = 64  # texts that wait for a slot; further ones are refused with status 429
    context: int | None = None  # most tokens of a text with its prompt; None is the model's context
    max_new_tokens: int = 4096  # most new tokens a text may ask for
    max_choices: int = 16  # most texts a request may ask for: prompts times n
    max_body: int = 2**20  # most bytes of a request
    request_timeout: float = 600.0  # seconds until a request is given up, waiting included
    drain_timeout: float = 30.0  # seconds that running requests have left after SIGTERM or Ctrl-C


def run(args: Args) -> None:
    """Serves until it is stopped.

    Raises:
        UserError: for settings out of range, a missing run, no token where one is needed, an address that is taken.
        Interrupted: if requests had to be cut off when it stopped.
    """
    check(args)
    try:
        from llm.serving import server

        guard = args.address.guard()
    except ImportError as error:
        raise UserError(
            f'serve needs FastAPI, uvicorn and prometheus-client ({error.name} is missing); install them with '
            "pip install 'glassbox-llm[serve]'"
        ) from error
    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from llm.inference.engine import Engine
    from llm.inference.generate import load_generator
    from llm.serving.service import Limits, Service

    # Before the model is read: a port that is taken shows at once.
    listening = server.listen(args.address.host, args.address.port)
    generator = load_generator(workdir, args.step, args.ema, chat=True, quantize=args.quantize)
    context = generator.model.config.context_length
    if args.context is not None and not 1 <= args.context <= context:
        raise UserError(f"--context is {args.context}; it must be from 1 to the model's, {context}")
    capacity = args.context or context
    engine = Engine(generator, slots=args.slots, capacity=capacity, max_queue=args.max_queue)
    limits = Limits(
        max_body=args.max_body,
        max_new_tokens=args.max_new_tokens,
        max_choices=min(args.max_choices, args.slots + args.max_queue),
        max_exchanges=args.slots + args.max_queue,
        request_timeout=args.request_timeout,
    )
    service = Service(engine, generator, args.name or args.workdir.resolve().name, capacity, limits)
    server.run(service, guard, listening, args.drain_timeout)


def check(args: Args) -> None:
    """Raises UserError for numbers out of range."""
    for name, least in (
        *((name, 1) for name in ('slots', 'max_queue', 'max_new_tokens', 'max_choices', 'max_body')),
        ('drain_timeout', 0),
    ):
        if not getattr(args, name) >= least:
            raise UserError(f'--{name.replace("_", "-")} is {getattr(args, name)}; it must be at least {least}')
    if not args.request_timeout > 0:
        raise UserError(f'--request-timeout is {args.request_timeout}; it must be positive')
