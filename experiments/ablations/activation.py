"""Which nonlinearity in the feed-forward layer?

Gated ones have three matrices instead of two (Shazeer 2020), so their hidden layer is 2/3 as wide, as is usual, and
all arms have the same number of parameters: 3 x 192 = 2 x 288 columns.
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

PLAIN = BASE.model.hidden_width * 3 // 2

ABLATION = Ablation(
    question='Which nonlinearity in the feed-forward layer, at equal parameters?',
    base=BASE,
    base_label='swiglu',
    arms={
        'geglu': {'model.activation': 'geglu'},
        **{
            activation: {'model.activation': activation, 'model.feed_forward_width': PLAIN}
            for activation in ('gelu', 'relu', 'relu2')
        },
    },
)
