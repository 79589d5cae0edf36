"""How should a model learn where a token stands?

Rotary embeddings turn queries and keys by their position (Su et al. 2021), ALiBi takes a slope times the distance off
the scores (Press et al. 2022); the older two add a vector per position to the embedding, learned or of sines. `none`
tells how much a causal mask gives away by itself (Haviv et al. 2022).

Sines have amplitude 1 and embeddings start at a deviation of 0.02, so they are scaled up to 1 where sines are added,
as in the paper (section 3.4). Without that the sines drown the tokens: 1.12 bits per byte worse than rope, [1.04,
1.20].
"""

from experiments.ablations.base import BASE
from llm.ablation.plan import Ablation

ABLATION = Ablation(
    question='How should the order of tokens enter the model?',
    base=BASE,
    base_label='rope',
    arms={
        'alibi': {'model.position': 'alibi'},
        'learned': {'model.position': 'learned'},
        'sinusoidal': {'model.position': 'sinusoidal', 'model.embedding_scale': 1 / BASE.model.init_std},
        'none': {'model.position': 'none'},
    },
    notes='Rows of 64 tokens, and evaluation on rows as long: nothing here is about contexts longer than in training.',
)
