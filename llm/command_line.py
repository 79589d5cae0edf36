"""From what the user typed to a command's `run`, and from what it raises to one line and an exit code."""

import contextlib
import dataclasses
import difflib
import errno
import importlib
import inspect
import io
import keyword
import logging
import pkgutil
import re
import sys
import traceback
import typing
from collections.abc import Callable
from typing import Any, NoReturn

import tyro

from llm import commands
from llm.config import Config
from llm.config_file import load_config
from llm.errors import Interrupted, MachineError, UserError, first_line

NO_SPACE = 'No space left on device'


def main(arguments: list[str]) -> int:
    """Runs a command. Returns the exit code: 0 done, 2 the user's mistake, 1 the machine's, 128 + signal if stopped."""
    debug = '--debug' in arguments
    arguments = [argument for argument in arguments if argument != '--debug']
    if not arguments or arguments[0] in ('-h', '--help'):
        return guarded(lambda: print(overview()), debug) or (0 if arguments else 2)
    return guarded(lambda: _run(arguments[0], arguments[1:]), debug)


def script(main: Callable[[list[str]], None]) -> NoReturn:
    """Runs an experiment's `main` on what was typed after its name; ends the process with the exit code."""
    typed = [argument for argument in sys.argv[1:] if argument != '--debug']
    sys.exit(guarded(lambda: main(typed), '--debug' in sys.argv))


def guarded(work: Callable[[], None], debug: bool) -> int:
    """Does the work. Returns the exit code; what it raises becomes one line on stderr (and a traceback, to debug)."""
    try:
        if not debug:
            _quiet_background_threads()
        work()
        sys.stdout.flush()
        return 0
    except (UserError, MachineError, Interrupted) as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail('interrupted', 130, debug)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; nobody is there to be told
        return 1
    except (OSError, MemoryError) as error:
        return _fail(_machine_failure(error), 1, debug)
    except Exception as error:
        if NO_SPACE in str(error):
            return _fail(NO_SPACE.lower() + '; free some, then run the same command again', 1, debug)
        return _fail(
            f'{type(error).__name__}: {first_line(error)} (a bug, or a broken machine: --debug shows where)', 1, debug
        )


def _quiet_background_threads() -> None:
    """What fails in a thread of Orbax or asyncio reaches `main` as an exception; its stack traces are for --debug."""
    from absl import logging as absl_logging

    absl_logging.get_absl_logger().addFilter(lambda record: 'orbax' not in record.pathname)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    show = sys.excepthook
    sys.excepthook = lambda kind, error, trace: (
        None if 'Event loop is closed' in str(error) else show(kind, error, trace)
    )


def command_names() -> list[str]:
    return sorted(module.name.rstrip('_').replace('_', '-') for module in pkgutil.iter_modules(commands.__path__))


def overview() -> str:
    """The text of `python -m llm --help`."""
    lines = ['usage: python -m llm COMMAND [OPTIONS]', '', 'commands:']
    for name in command_names():
        summary = (_module(name).__doc__ or '').split('\n')[0]
        lines.append(f'  {name:10} {summary}')
    return '\n'.join([*lines, '', '`python -m llm COMMAND --help` lists the options; --debug shows tracebacks.'])


def _module(name: str) -> Any:
    stem = name.replace('-', '_')
    return importlib.import_module(f'llm.commands.{stem}_' if keyword.iskeyword(stem) else f'llm.commands.{stem}')


def _run(name: str, arguments: list[str]) -> None:
    if name not in command_names():
        close = difflib.get_close_matches(name, command_names(), n=1)
        hint = f'perhaps you meant {close[0]}' if close else f'choose one of {", ".join(command_names())}'
        raise UserError(f'there is no command {name!r}; {hint}')
    module = _module(name)
    if hasattr(module, 'main'):  # reads its arguments by itself
        module.main(arguments)
        return
    program = f'python -m llm {name}'
    if not issubclass(module.Args, Config):
        module.run(parse(module.Args, arguments, program, module.__doc__))
        return
    file, arguments = _config_file(arguments)
    config = load_config(file) if file else Config()
    start = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
    missing = {f.name: tyro.MISSING for f in dataclasses.fields(module.Args) if f.default is dataclasses.MISSING}
    about = (
        f'{module.__doc__} --config FILE (Python, with get_config()) or DIR (a run) gives the defaults of all options.'
    )
    args = parse(module.Args, _tyro_names(arguments), program, about, module.Args(**start, **missing))
    more = {'file': file} if 'file' in inspect.signature(module.run).parameters else {}
    module.run(args, Config(**{name: getattr(args, name) for name in start}), **more)


def _config_file(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--config FILE` out of the arguments: its values are the defaults of all other options."""
    for i, argument in enumerate(arguments):
        if argument == '--config':
            if i + 1 == len(arguments):
                raise UserError('--config needs a file, such as configs/quickstart.py')
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
        if argument.startswith('--config='):
            return argument.removeprefix('--config='), arguments[:i] + arguments[i + 1 :]
    return None, arguments


def _tyro_names(arguments: list[str]) -> list[str]:
    """Writes choices as tyro does, `optimizer:adam-w`, where the config and its JSON say `optimizer:adamw`."""
    names = {}
    for field in dataclasses.fields(Config):
        for cls in typing.get_args(field.type):
            names[f'{field.name}:{cls.kind}'] = (
                f'{field.name}:{re.sub("(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()}'
            )
    return [names.get(argument.replace('-', '_') if ':' in argument else '', argument) for argument in arguments]


def parse(cls: type, arguments: list[str], program: str, description: str | None, default: Any = None) -> Any:
    """tyro's parser, with its boxed errors turned into one line.

    Args:
        cls: the dataclass whose fields are the options.
        arguments: as typed.
        program: its name, for --help.
        description: for --help.
        default: an instance with the defaults.

    Raises:
        UserError: for an option that there is not, or a value that it does not take.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                cls,
                args=arguments,
                **({} if default is None else {'default': default}),
                prog=program,
                description=description,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(said.getvalue())) from None


def check_least(args: Any, least: float, *names: str) -> None:
    """Raises UserError if one of these options is less than it may be; None is no number and passes."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise UserError(f'--{name.replace("_", "-")} is {value}; it must be at least {least}')


def _one_line(box: str) -> str:
    """The content of tyro's error box: what is wrong, and the nearest option there is."""
    lines = [re.sub(r'[╭╮╰╯│─]+|^ *-{3,} *$', ' ', line).strip() for line in box.splitlines()]
    text = ' '.join(line for line in lines if line)
    text = re.sub(r'^(Parsing error|Unrecognized options|Value error|Invalid choice|Required options)\s+', '', text)
    typed = re.search(r'Unrecognized options: (--[^\s,]+)', text)
    offered = re.findall(r'--[\w.-]+', text.partition('Perhaps you meant:')[2])
    nearest = typed and difflib.get_close_matches(typed[1], offered, n=1)
    text = re.split(
        r'\s+(?:Argument helptext|Available subcommands|Perhaps you meant|Similar|For full helptext)', text
    )[0]
    text = re.sub(r'Error parsing (?:Args: |(\S+): (?=\1))', '', text)
    return text.rstrip('.') + (f'; perhaps you meant {nearest[0]}' if nearest else '') + ' (--help lists the options)'


def _machine_failure(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f'{NO_SPACE.lower()}{f" for {error.filename}" if error.filename else ""}; free some, then run it again'
    return f'{type(error).__name__}: {first_line(error)}'


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print('error:', *message.split(), file=sys.stderr)
    return code
