"""Should the head be the embedding, transposed?

Tying saves vocabulary x width parameters (Press & Wolf 2017), which is a third of this small model, and next to
nothing of a large one. The third arm gives the untied model's parameters to the blocks instead.
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

ABLATION = Ablation(
    question='Should the embedding serve as the head too?',
    base=BASE,
    base_label='tied',
    arms={
        'untied': {'model.tied_embeddings': False},
        # 512 x 64 weights more, over 2 layers of 3 matrices of width 64
        'tied, as many parameters': {'model.feed_forward_width': 192 + 85},
    },
    notes='Training FLOPs count the head whether it is tied or not, so untied costs no more of them.',
)
