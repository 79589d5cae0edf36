"""Which norm, and where?

RMSNorm leaves out LayerNorm's mean (Zhang & Sennrich 2019). Before a sub-layer it keeps the residual stream free,
which is what makes deep models train (Xiong et al. 2020); after it is the original place (Vaswani et al. 2017); both
is what Gemma 2 does.
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

ABLATION = Ablation(
    question='Which normalisation, and where?',
    base=BASE,
    base_label='rmsnorm before',
    arms={
        'layernorm before': {'model.norm': 'layernorm'},
        'rmsnorm after': {'model.norm_placement': 'post'},
        'rmsnorm both': {'model.norm_placement': 'both'},
        'layernorm after': {'model.norm': 'layernorm', 'model.norm_placement': 'post'},
    },
    notes='Two layers: what a place does to stability shows in deeper models, and in the learning rate that they stand '
    '(--tune).',
)
