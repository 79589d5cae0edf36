"""Look inside a trained model on a local web page: a prompt on its way to the next token, step by step."""

import pathlib
import webbrowser
from dataclasses import dataclass

import tyro

from llm.errors import UserError


@dataclass(frozen=True)
class Args:
    """`python -m llm explore --workdir DIR`. One line on stdout says where the page is; stderr logs requests.

    A bearer token is read from --token-file or from GLASSBOX_SERVE_TOKEN, never from the command line.
    """

    workdir: tyro.conf.UseAppendAction[tuple[pathlib.Path, ...]]  # run to look into; twice: two runs side by side
    host: str = '127.0.0.1'  # address to listen on; one that other machines reach needs a token
    port: int = 8001  # port to listen on; 0 is any that is free
    token_file: pathlib.Path | None = None  # file with the token that requests must carry, at least 16 characters
    allowed_hosts: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # further names that this server is reached by
    prompt: str | None = None  # text that the page starts with; None is some lines of Python
    open: bool = False  # open the page in this machine's browser


def run(args: Args) -> None:
    """Serves until it is stopped.

    Raises:
        UserError: for a run that cannot be shown, runs of different tokenizers, no token where one is needed, an
            address that is taken.
    """
    from llm.commands.serve import TOKEN_VARIABLE, read_token

    if not args.workdir:
        raise UserError('--workdir is missing; name the folder of a run')
    if not 0 <= args.port < 2**16:
        raise UserError(f'--port is {args.port}; it must be from 0 to 65535')
    token = read_token(args)
    try:
        from llm.serving import guard, server
    except ImportError as error:
        raise UserError(
            f'explore needs FastAPI and uvicorn ({error.name} is missing); install them with '
            "pip install 'glassbox-llm[serve]'"
        ) from error
    from llm import runtime
    from llm.workdir import Workdir

    loopback = guard.is_loopback(args.host)
    if token is None and not loopback:
        raise UserError(
            f'--host {args.host} can be reached from other machines: set a token, with --token-file or in '
            f'{TOKEN_VARIABLE}, or leave --host out'
        )
    runtime.prepare_host(Workdir.open(args.workdir[0]))
    from llm.explorer import server as explorer_server
    from llm.explorer.app import Service
    from llm.explorer.explorer import DEFAULT_PROMPT, Explorer
    from llm.explorer.runs import open_runs

    listening = server.listen(args.host, args.port)  # before a model is read: a port that is taken shows at once
    service = Service(Explorer(open_runs(args.workdir), DEFAULT_PROMPT if args.prompt is None else args.prompt))
    # Of an address that other machines reach, nobody here knows the names.
    hosts = (*guard.LOOPBACK_NAMES, args.host, *args.allowed_hosts) if loopback or args.allowed_hosts else None
    guarded = lambda app: guard.Guard(app, token, hosts, explorer_server.PROTECTED)

    def ready(url: str) -> None:
        print(f'the page is at {url}/', flush=True)
        if args.open:
            webbrowser.open(f'{url}/')

    explorer_server.run(service, guarded, listening, ready)
