"""How many key and value heads?

Fewer of them make the cache of a decoding model smaller: grouped-query (Ainslie et al. 2023) and multi-query
attention (Shazeer 2019). What they save in parameters is given back to the feed-forward layer in two arms, so that
what is lost by sharing can be told from what is lost by being smaller.
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

ABLATION = Ablation(
    question='What do fewer key and value heads cost?',
    base=BASE,
    base_label='mha',
    arms={
        'gqa, 2 of 4': {'model.num_kv_heads': 2},
        'mqa': {'model.num_kv_heads': 1},
        # 64 x 64 and 96 x 64 weights less in keys and values, over the three matrices of width 64
        'gqa, wider feed-forward': {'model.num_kv_heads': 2, 'model.feed_forward_width': 192 + 21},
        'mqa, wider feed-forward': {'model.num_kv_heads': 1, 'model.feed_forward_width': 192 + 32},
    },
    notes='The cache is half and a quarter as large. Speed of decoding is not measured here.',
)
