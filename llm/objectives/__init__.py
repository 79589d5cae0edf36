"""Logits to loss. An objective is `loss(params, batch, rng) -> (loss_sum, weight, metrics)`: sums, never means.

The step adds up sums, weights and gradients over devices and micro-batches and divides once, so that how a batch is cut
never shows in the result. Metrics are (sum, weight) pairs too.
"""
