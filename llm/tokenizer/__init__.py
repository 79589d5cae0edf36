"""Text to ids and back: our own tokenizer, and those that models from elsewhere bring, behind one interface."""

from llm.tokenizer.files import copy_tokenizer, has_tokenizer, open_any, open_directory, open_workdir
from llm.tokenizer.glassbox import (
    BOS,
    EOS,
    FIRST_BYTE,
    PAD,
    SMALLEST_VOCABULARY,
    SPECIAL_TOKENS,
    UNK,
    GlassboxTokenizer,
    train,
    training_chunks,
)
from llm.tokenizer.interface import Tokenizer

__all__ = [
    'BOS',
    'EOS',
    'FIRST_BYTE',
    'PAD',
    'SMALLEST_VOCABULARY',
    'SPECIAL_TOKENS',
    'UNK',
    'GlassboxTokenizer',
    'Tokenizer',
    'copy_tokenizer',
    'has_tokenizer',
    'open_any',
    'open_directory',
    'open_workdir',
    'train',
    'training_chunks',
]
