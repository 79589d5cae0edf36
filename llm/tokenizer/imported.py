"""What tokenizers from elsewhere have in common, whichever library reads them."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping

from llm.errors import UserError, first_line
from llm.tokenizer.files import write_files
from llm.tokenizer.interface import Tokenizer
from llm.tokenizer.special_tokens import Description


class ImportedTokenizer(Tokenizer):
    """A tokenizer with the files that it came in (`files`, by name), and the names they give to its special tokens."""

    exact = False

    def __init__(self, files: Mapping[str, bytes], where: pathlib.Path, vocabulary: str):
        """
        Args:
            files: by name.
            where: their folder, for errors.
            vocabulary: the file that has the tokens.
        """
        self.files, self._where, self._vocabulary = dict(files), where, vocabulary
        try:
            self._description = Description(files, where)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f'{where}: one of {", ".join(name for name in files if name.endswith(".json"))} does not say what it '
                f'should ({first_line(error)}); restore it from its source'
            ) from error
        self.chat_template = self._description.template

    def _name_special_tokens(self, ids: Mapping[str, int], special: Mapping[int, str]) -> None:
        """Finds the special tokens that have names, and those that end a text.

        Args:
            ids: of the tokens, by text.
            special: texts of the special tokens, by id.
        """
        self.special = dict(special)
        for name in ('bos', 'eos', 'pad', 'unk'):
            text = self._description.named.get(name)
            if text is not None and text not in ids:
                raise UserError(
                    f'{self._where}: the {name}_token {text!r} is not in {self._vocabulary}; restore the files from '
                    'their source'
                )
            # Older directories name none of them here, but in what they say of the model.
            stated = () if self._description.named else self._description.stated_ids(name)
            found = (
                ids.get(text) if text is not None else stated[0] if stated and stated[0] < len(self._bytes) else None
            )
            setattr(self, f'{name}_id', found)
            if found is not None and found not in self.special:
                self.special[found] = next(text for text, i in ids.items() if i == found)
        for i in self.special:
            self._bytes[i] = b''
        ends = [] if self.eos_id is None else [self.eos_id]
        self.stop_ids = tuple(dict.fromkeys([*ends, *self._description.stated_ids('eos')]))

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def _count(self) -> int:
        """Ids that a text can have, or that stand around one; specials of other uses may lie beyond a model's."""
        used = {self.bos_id, self.eos_id, *self.prefix_ids} - {None}
        return 1 + max(i for i in range(len(self._bytes)) if self._bytes[i] or i in used)

    @property
    def digest(self) -> str:
        ids = [self.bos_id, self.eos_id, self.unk_id, list(self.prefix_ids), sorted(self.special)]
        digest = hashlib.sha256(self.files[self._vocabulary])
        digest.update(json.dumps(ids).encode())
        digest.update(json.dumps(sorted(self._description.added.items())).encode())
        return digest.hexdigest()

    def save_in(self, folder: str | os.PathLike) -> None:
        write_files(self.files, folder)
