"""Chat templates as models from elsewhere bring them: Jinja that writes a conversation as one text.

A template is a program of somebody else, so it runs in Jinja's sandbox, on plain texts alone. What it may use is what
Hugging Face's transformers gives it, so that the text is the same: blocks trimmed, `break` and `continue`,
`raise_exception`, `tojson` that keeps HTML characters, `strftime_now`, and `{% generation %}` around what the assistant
says.
"""

import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm.errors import UserError, first_line

_GENERATION = re.compile(r'\{%[-+]?\s*generation\b')


class Rendered(NamedTuple):
    """A conversation as text."""

    text: str
    answers: list[tuple[int, int]]  # characters [start, end) that stood in `{% generation %}` blocks


class ChatTemplate:
    """One template, compiled."""

    def __init__(self, source: str, names: Mapping[str, str]):
        """
        Args:
            source: in Jinja.
            names: special tokens that it may write, such as `bos_token`.

        Raises:
            UserError: if it is not a template.
        """
        self.source = source
        self.marks_answers = bool(_GENERATION.search(source))
        self._names = dict(names)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, 'jinja2.ext.loopcontrols']
        )
        environment.filters['tojson'] = _tojson
        environment.globals |= {
            'raise_exception': _raise_exception,
            'dict': lambda *args, **named: dict(*args, **named),
        }
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # Python's own, too, if it is too deep for its parser or its compiler
            problem = first_line(error) or type(error).__name__
            raise UserError(f'the chat template is not valid Jinja ({problem}); repair it') from error

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
        today: datetime.datetime | None = None,
    ) -> Rendered:
        """Writes a conversation.

        Args:
            messages: role and content of each.
            add_generation_prompt: end with what opens the assistant's turn.
            today: what `strftime_now` tells; None is now.

        Raises:
            UserError: if the template refuses the conversation, or fails.
        """
        # No text can hold the mark, so what stands between two of them was written in a block.
        mark = f'\ue000{secrets.token_hex(16)}\ue001'
        try:
            written = self._template.render(
                messages=[{'role': str(m['role']), 'content': str(m['content'])} for m in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                strftime_now=lambda form: (today or datetime.datetime.now()).strftime(form),
                **{_MARK: mark},
                **self._names,
            )
        except _Refused as error:
            raise UserError(f'the chat template refuses the conversation: {first_line(error)}') from error
        except Exception as error:  # it is a program: anything may come of it
            raise UserError(f'the chat template fails ({type(error).__name__}: {first_line(error)})') from error
        text, answers, start = '', [], 0
        for i, part in enumerate(written.split(mark)):
            start, text = len(text), text + part
            if i % 2 and part:
                answers.append((start, len(text)))
        return Rendered(text, answers)


_MARK = 'glassbox_generation_mark'


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, with a mark before and after what it writes."""

    tags = {'generation'}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        mark = lambda: nodes.Output([nodes.Name(_MARK, 'load')])
        return nodes.Scope([mark(), *body, mark()]).set_lineno(line)


class _Refused(jinja2.TemplateError):
    pass


def _raise_exception(message: str) -> None:
    raise _Refused(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
