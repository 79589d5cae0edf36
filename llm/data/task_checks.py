"""What can be checked about an answer without judging it: the reward functions of the embedded tasks.

Each takes `(prompts, completions, **columns)`, as every reward function does (see docs/rlhf.md), and returns a number
from 0 to 1 for each answer. A prompt is a text, or a conversation that ends with one. The assistant's preferences are
made with `sound`. `signature` is what comes to mind first, and can be cheated by leaving the body out.
"""

import ast
import builtins
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

Prompt = str | list[dict[str, str]]

_ASKED = re.compile(r'`(\w+)\((.*?)\)`', re.DOTALL)  # the first thing in backquotes that looks like a call
_BUILTINS = frozenset(dir(builtins))
_CONSTANT = ast.Pass | ast.Expr | ast.Return


def parses(prompts: Sequence[Prompt], completions: Sequence[str], **columns) -> list[float]:
    """1 for an answer that is one function of Python, and nothing else."""
    return [float(function_in(completion) is not None) for completion in completions]


def signature(prompts: Sequence[Prompt], completions: Sequence[str], **columns) -> list[float]:
    """A third each for: the answer is one function of Python; of the name that was asked for; with those arguments.

    Name and arguments count only in a function that parses: their spelling, order, kinds and defaults.
    """
    return [sum(_facts(*pair)) / 3 for pair in zip(prompts, completions)]


def sound(prompts: Sequence[Prompt], completions: Sequence[str], **columns) -> list[float]:
    """A fifth each for the three of `signature`, for `uses_arguments` and for `known_names`."""
    facts = [sum(_facts(*pair)) for pair in zip(prompts, completions)]
    shares = zip(uses_arguments(prompts, completions), known_names(prompts, completions))
    return [(fact + sum(share)) / 5 for fact, share in zip(facts, shares)]


def as_asked(prompts: Sequence[Prompt], completions: Sequence[str], **columns) -> list[float]:
    """1 for an answer that is one function of Python with the name and the arguments that were asked for."""
    return [float(all(_facts(*pair))) for pair in zip(prompts, completions)]


def does_something(prompts: Sequence[Prompt], completions: Sequence[str], **columns) -> list[float]:
    """1 for a function that does more than to pass, or to state or return a constant."""
    return [_of_function(completion, _does_something) for completion in completions]


def uses_arguments(prompts: Sequence[Prompt], completions: Sequence[str], **columns) -> list[float]:
    """The share of the function's own arguments that its body reads; 1 if it has none."""
    return [_of_function(completion, _share_used) for completion in completions]


def known_names(prompts: Sequence[Prompt], completions: Sequence[str], **columns) -> list[float]:
    """The share of the names read in the body that are arguments, builtins, or assigned in it; 1 if it reads none.

    The library's own functions also read what their module imports and defines, so they do not reach 1 either.
    """
    return [_of_function(completion, _share_known) for completion in completions]


def word_overlap(
    prompts: Sequence[Prompt], completions: Sequence[str], completion: Sequence[Prompt], **columns
) -> list[float]:
    """How many words an answer shares with the one in the row's `completion`: F1 over words, as often as they occur."""
    return [_overlap(_text(given), _text(wanted)) for given, wanted in zip(completions, completion)]


def function_in(text: str) -> ast.FunctionDef | None:
    """The function that a text consists of; None if it is not Python, or is more or less than one function."""
    try:
        with warnings.catch_warnings():  # of odd escapes
            warnings.simplefilter('ignore')
            body = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # all that garbage makes a parser raise
        return None
    return body[0] if len(body) == 1 and isinstance(body[0], ast.FunctionDef) else None


def asked_for(prompt: Prompt) -> tuple[str, str]:
    """The name and the arguments that a prompt names in backquotes, `name(arguments)`, written as `ast.unparse` does.

    Raises:
        ValueError: if it names none: these checks are for other prompts.
    """
    text = _text(prompt)
    for name, arguments in _ASKED.findall(text):
        wanted = function_in(f'def {name}({arguments}): pass')
        if wanted is not None:
            return name, ast.unparse(wanted.args)
    raise ValueError(f'no `name(arguments)` in the prompt {text[:60]!r}')


def _text(value: Prompt) -> str:
    return value if isinstance(value, str) else value[-1]['content']


def _overlap(given: str, wanted: str) -> float:
    a, b = (Counter(re.findall(r'\w+', text.lower())) for text in (given, wanted))
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0


def _facts(prompt: Prompt, completion: str) -> tuple[bool, bool, bool]:
    name, arguments = asked_for(prompt)
    function = function_in(completion)
    if function is None:
        return False, False, False
    return True, function.name == name, ast.unparse(function.args) == arguments


def _of_function(completion: str, check: Callable[[ast.FunctionDef], float]) -> float:
    function = function_in(completion)
    return 0.0 if function is None else float(check(function))


def _does_something(function: ast.FunctionDef) -> bool:
    for part in function.body:
        value = getattr(part, 'value', None)
        if not isinstance(part, _CONSTANT) or not (value is None or isinstance(value, ast.Constant)):
            return True
    return False


def _share_used(function: ast.FunctionDef) -> float:
    arguments = _arguments(function)
    return len(arguments & _read(function)) / len(arguments) if arguments else 1.0


def _share_known(function: ast.FunctionDef) -> float:
    read = _read(function)
    known: set[str | None] = _arguments(function) | _BUILTINS
    for node in _nodes(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            known |= {node.id}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(alias.asname or alias.name).partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler | ast.FunctionDef | ast.ClassDef):
            known |= {node.name}  # None for an exception that is given no name
        elif isinstance(node, ast.arg):
            known |= {node.arg}
    return len(read & known) / len(read) if read else 1.0


def _arguments(function: ast.FunctionDef) -> set[str]:
    of = function.args
    given = [*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg]
    return {argument.arg for argument in given if argument is not None}


def _read(function: ast.FunctionDef) -> set[str]:
    return {node.id for node in _nodes(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _nodes(function: ast.FunctionDef) -> list[ast.AST]:
    """Everything in the body."""
    return [node for part in function.body for node in ast.walk(part)]
