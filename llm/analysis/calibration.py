"""Whether a model is right as often as it is sure: expected calibration error and the reliability diagram.

Predictions are sorted into bins of equal width by their confidence, the probability given to the answer that was
chosen. In a bin, a calibrated model is right as often as its mean confidence says. The error is the distance of the
two, averaged over the bins by their predictions (Naeini et al. 2015; Guo et al. 2017, "On Calibration of Modern Neural
Networks", whose 15 bins are the default). It depends on the number of bins, so that stands beside it.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

BINS = 15


class Reliability:
    """Counts predictions, bin by bin; so many may be added that they would not fit in memory."""

    def __init__(self, bins: int = BINS):
        """Starts with no prediction. Bin i is of confidences in [i / bins, (i + 1) / bins), the last also of 1."""
        self.counts = np.zeros(bins, np.int64)
        self._confidence, self._right = np.zeros((2, bins), np.float64)

    def add(self, confidence: Float[np.ndarray, 'predictions'], right: Bool[np.ndarray, 'predictions']) -> None:
        """Counts predictions: the probability of what was predicted, and whether it was right."""
        bins = len(self.counts)
        confidence = np.clip(np.asarray(confidence, np.float64), 0, 1)  # a float32 softmax may reach 1.0000001
        which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
        self.counts += np.bincount(which, minlength=bins)
        self._confidence += np.bincount(which, weights=confidence, minlength=bins)
        self._right += np.bincount(which, weights=np.asarray(right, np.float64), minlength=bins)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1].

        Raises:
            ValueError: without predictions.
        """
        if not self.total:
            raise ValueError('no predictions to measure calibration on')
        return float(np.abs(self._right - self._confidence).sum() / self.total)

    @property
    def accuracy(self) -> float:
        return float(self._right.sum() / max(self.total, 1))

    @property
    def confidence(self) -> float:
        """The mean; above the accuracy, the model is too sure of itself."""
        return float(self._confidence.sum() / max(self.total, 1))

    def rows(self) -> list[dict[str, Any]]:
        """The bins that hold predictions: `low` and `high` ends, `count`, mean `confidence`, `accuracy`."""
        bins = len(self.counts)
        return [
            {
                'low': i / bins,
                'high': (i + 1) / bins,
                'count': int(self.counts[i]),
                'confidence': float(self._confidence[i] / self.counts[i]),
                'accuracy': float(self._right[i] / self.counts[i]),
            }
            for i in np.flatnonzero(self.counts).tolist()
        ]
