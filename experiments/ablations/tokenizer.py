"""How large a vocabulary?

More pieces are longer pieces: fewer of them for a text, each harder to guess, and a larger table to learn. Loss per
token cannot be compared, bits per byte can. At equal tokens a larger vocabulary reads more text, and pays for a
larger head; --budget flops lets it pay.
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

ABLATION = Ablation(
    question='How large should the vocabulary be?',
    base=BASE,
    base_label='512 pieces',
    arms={
        'bytes': {'tokenizer.kind': 'byte', 'model.vocab_size': 272},
        '1,024 pieces': {'model.vocab_size': 1024},
        '2,048 pieces': {'model.vocab_size': 2048},
        '512 unigram pieces': {'tokenizer.kind': 'unigram'},
    },
    notes='Held-out windows are 64 tokens whatever a token is, and each starts without context: arms with longer '
    'pieces see further back, in bytes, in training and in evaluation.',
)
