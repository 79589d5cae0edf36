"""Weights, tokenizers and evaluations of others, in and out."""
