"""What the small files beside a tokenizer say: which tokens are special, what a text begins with, how one converses."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm.errors import UserError
from llm.tokenizer.chat_template import ChatTemplate

MOST_IDS = 1 << 23  # of a vocabulary; none has so many, and tables are made for all up to the largest id
NAMED = ('bos', 'eos', 'pad', 'unk')


class AddedToken(NamedTuple):
    """A token that is looked for in a text before everything else is."""

    content: str
    special: bool


class Description:
    """The files of one tokenizer, read.

    Attributes:
        named: text of the tokens that have a name ('bos', 'eos', 'pad', 'unk'), as far as there are any.
        special_texts: of these, and of others that have a name, such as the mask_token.
        listed: further tokens that the files list as special; of those in the vocabulary it says itself what they are.
        added: tokens that the files add to the vocabulary, by id.
        add_bos, add_eos: whether a text gets the one or the other; None where the files do not say.
        legacy: whether text behind a special token gets the space that the beginning of a text gets.
        template: of conversations; None if there is none.
    """

    def __init__(self, files: Mapping[str, bytes], where: pathlib.Path):
        """
        Args:
            files: by name; any may be missing.
            where: their folder, for errors.

        Raises:
            UserError: if one of them is not what it should be.
        """
        self._files, self._where = files, where
        config = self._json('tokenizer_config.json')
        by_map = self._json('special_tokens_map.json')
        names = {name: content(value) for name, value in by_map.items()}
        names |= {name: content(value) for name, value in config.items() if name.endswith('_token')}
        self._ids = self._json('config.json') | self._json('generation_config.json')
        texts = {name: text for name, text in names.items() if text is not None and name.endswith('_token')}
        self.named = {name: texts[f'{name}_token'] for name in NAMED if f'{name}_token' in texts}
        self.special_texts = set(texts.values())
        listed = {
            text
            for name in ('additional_special_tokens', 'extra_special_tokens')
            for text in map(content, _values(config.get(name, by_map.get(name))))
            if text
        }
        self.listed = listed - self.special_texts
        self.added = {
            int(i): AddedToken(content(token), bool(token.get('special', False)))
            for i, token in config.get('added_tokens_decoder', {}).items()
        } or {
            int(i): AddedToken(text, text in self.special_texts | listed)
            for text, i in self._json('added_tokens.json').items()
        }
        for i, token in self.added.items():
            check_id(i, token.content)
        self.add_bos, self.add_eos = config.get('add_bos_token'), config.get('add_eos_token')
        self.legacy = bool(config.get('legacy', False))
        template = self._template(config)
        self.template = None if template is None else ChatTemplate(template, texts)

    def stated_ids(self, name: str) -> tuple[int, ...]:
        """The ids, if any, that generation_config.json, else config.json, states for 'bos', 'eos' or 'pad'."""
        found = self._ids.get(f'{name}_token_id')
        found = found if isinstance(found, list) else [found]
        return tuple(i for i in found if isinstance(i, int) and not isinstance(i, bool) and i >= 0)

    def _template(self, config: Mapping[str, Any]) -> str | None:
        if 'chat_template.jinja' in self._files:
            return self._text('chat_template.jinja')
        found = self._json('chat_template.json').get('chat_template', config.get('chat_template'))
        if isinstance(found, list):  # several, each with a name
            found = {entry.get('name'): entry.get('template') for entry in found if isinstance(entry, dict)}
        if isinstance(found, dict):
            found = found.get('default')
        return found if isinstance(found, str) else None

    def _json(self, name: str) -> dict[str, Any]:
        if name not in self._files:
            return {}
        try:
            found = json.loads(self._text(name))
        except (ValueError, RecursionError) as error:
            raise UserError(f'{self._where / name} is damaged ({error}); restore it from its source') from error
        if not isinstance(found, dict):
            raise UserError(f'{self._where / name} is damaged (it holds no object); restore it from its source')
        return found

    def _text(self, name: str) -> str:
        try:
            return self._files[name].decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f'{self._where / name} is not UTF-8 ({error.reason}); restore it from its source'
            ) from error


def content(token: Any) -> str | None:
    """The text of a token, which is written as a text or as an object."""
    if isinstance(token, dict):
        token = token.get('content')
    return token if isinstance(token, str) and token else None


def check_id(i: int, text: str) -> None:
    """Raises ValueError if a token's id is none that a vocabulary has."""
    if not 0 <= i < MOST_IDS:
        raise ValueError(f'the id of its token {text!r} is {i}, and not from 0 to {MOST_IDS - 1}')


def _values(found: Any) -> list[Any]:
    """A list of tokens, or those of an object by name."""
    return list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
