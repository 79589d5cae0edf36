"""Deep or wide?

Kaplan et al. (2020) found that at equal parameters the shape hardly matters over a wide range. The arms have the
base's number of weights in their blocks, within 2%; heads have 16 dimensions in all of them. Embeddings go with the
width: equal parameters of blocks are not equal parameters in all, and not equal FLOPs (--budget flops).
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation


def shape(layers: int, width: int, feed_forward: int) -> dict[str, int]:
    return {
        'model.num_layers': layers,
        'model.width': width,
        'model.num_heads': width // 16,
        'model.feed_forward_width': feed_forward,
    }


ABLATION = Ablation(
    question='Deep or wide, at equal parameters of the blocks?',
    base=BASE,
    base_label='2 x 64',
    arms={
        '1 x 96': shape(1, 96, 242),
        '3 x 48': shape(3, 48, 183),
        '4 x 48': shape(4, 48, 121),
        '8 x 32': shape(8, 32, 96),
    },
)
