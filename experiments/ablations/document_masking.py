"""Should attention stop at the end of a document?

Rows are cut from documents laid end to end. Without a mask a token also sees the end of the document before its own,
which is noise, or a longer context that happens to be of another file. Evaluation is masked as training is.
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

ABLATION = Ablation(
    question='Should attention and positions restart at each document in a row?',
    base=BASE,
    base_label='masked',
    arms={'not masked': {'data.document_masking': False}},
    notes='The documents are some 10,000 tokens long and the rows 64, so few rows hold a border: a small difference is '
    'expected here, and a larger one on short documents.',
)
