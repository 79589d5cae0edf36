"""Glassbox: a language-model laboratory in JAX/Flax, from raw text to a trained, measured, generating model."""

__version__ = '0.1.0'
