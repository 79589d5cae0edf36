"""Look inside a trained model on a local web page: a prompt on its way to the next token, step by step."""

import pathlib
import webbrowser
from dataclasses import dataclass

import tyro

from llm.errors import UserError
from llm.serving.address import Address


@dataclass(frozen=True)
class Args:
    """`python -m llm explore --workdir DIR`. One line on stdout says where the page is; stderr logs requests."""

    workdir: tyro.conf.UseAppendAction[tuple[pathlib.Path, ...]]  # run to look into; twice: two runs side by side
    address: tyro.conf.OmitArgPrefixes[Address] = Address(port=8001)
    prompt: str | None = None  # text that the page starts with; None is some lines of Python
    open: bool = False  # open the page in this machine's browser


def run(args: Args) -> None:
    """Serves until it is stopped.

    Raises:
        UserError: for a run that cannot be shown, runs of different tokenizers, no token where one is needed, an
            address that is taken.
    """
    if not args.workdir:
        raise UserError('--workdir is missing; name the folder of a run')
    try:
        from llm.serving import server

        guard = args.address.guard()
    except ImportError as error:
        raise UserError(
            f'explore needs FastAPI and uvicorn ({error.name} is missing); install them with '
            "pip install 'glassbox-llm[serve]'"
        ) from error
    from llm import runtime
    from llm.workdir import Workdir

    runtime.prepare_host(Workdir.open(args.workdir[0]))
    from llm.explorer import server as explorer_server
    from llm.explorer.app import Service
    from llm.explorer.explorer import DEFAULT_PROMPT, Explorer
    from llm.explorer.runs import open_runs

    # Before a model is read: a port that is taken shows at once.
    listening = server.listen(args.address.host, args.address.port)
    service = Service(Explorer(open_runs(args.workdir), DEFAULT_PROMPT if args.prompt is None else args.prompt))

    def ready(url: str) -> None:
        print(f'the page is at {url}/', flush=True)
        if args.open:
            webbrowser.open(f'{url}/')

    explorer_server.run(service, guard, listening, ready)
