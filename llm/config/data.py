"""Text to ids to batches."""

from dataclasses import dataclass
from typing import Literal

from llm.config.fields import require, require_choices


@dataclass(frozen=True)
class TokenizerConfig:
    """Text to ids. The vocabulary size is `model.vocab_size`."""

    kind: Literal['bpe', 'unigram', 'byte'] = 'bpe'  # SentencePiece BPE or unigram, or one token per byte
    split_digits: bool = True  # every digit is a token of its own
    training_bytes: int = 20_000_000  # most text the tokenizer learns from, in UTF-8 bytes

    def __post_init__(self):
        require_choices('tokenizer', self)
        require(self.training_bytes >= 1, 'tokenizer.training_bytes', self.training_bytes, 'at least 1')


@dataclass(frozen=True)
class DataConfig:
    """Corpora to batches."""

    corpora: tuple[str, ...] = (
        'python_stdlib',
    )  # python_stdlib, text:GLOB, jsonl:GLOB, tfds:NAME; examples: task:NAME
    weights: tuple[float, ...] = ()  # share of windows from each corpus; empty is in proportion to their size
    text_field: str = 'text'  # the field that holds the text in jsonl: and tfds: corpora
    bad_bytes: Literal['replace', 'refuse'] = 'replace'  # what to do with a file that is not UTF-8, after reporting it
    sequence_length: int = 256  # tokens a row predicts
    document_masking: bool = True  # attention and positions restart at each document in a row
    seed: int = 0  # order of the windows

    def __post_init__(self):
        require_choices('data', self)
        require(len(self.corpora) >= 1, 'data.corpora', self.corpora, 'at least one corpus')
        require(
            len(self.weights) in (0, len(self.corpora)),
            'data.weights',
            self.weights,
            f'empty or one number per corpus ({len(self.corpora)})',
        )
        require(all(w > 0 for w in self.weights), 'data.weights', self.weights, 'made of positive numbers')
        require(self.sequence_length >= 1, 'data.sequence_length', self.sequence_length, 'at least 1')
        require(0 <= self.seed < 2**31, 'data.seed', self.seed, 'in [0, 2^31)')
