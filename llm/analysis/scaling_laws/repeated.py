"""Data that was read more than once: what it counts for (Muennighoff et al. 2023, "Scaling Data-Constrained LMs").

D counts every token read, and the law takes each for a fresh one. Their fit says that R repetitions of U unique tokens
are worth U R* (1 - exp(-R / R*)) fresh ones, with R* = 15.4: four epochs are nearly as good as fresh data, forty not.
R* was measured on models of 7 M to 9 B parameters; that it holds for small ones is an assumption, not a result.
"""

import numpy as np

HALF_LIFE = 15.387756  # R* of data, their table 6


def effective_tokens(seen: np.ndarray, unique: np.ndarray, half_life: float = HALF_LIFE) -> np.ndarray:
    """Fresh tokens of the same worth.

    Args:
        seen: (...,), tokens trained on, D.
        unique: (...,), tokens of the corpus that was read; at least D means that nothing was read twice.
        half_life: R*, in repetitions.
    """
    seen = np.asarray(seen, np.float64)
    fresh = np.minimum(seen, unique)
    repeats = np.maximum(seen / fresh - 1, 0)
    return fresh + fresh * half_life * -np.expm1(-repeats / half_life)
