"""Ids to logits."""

from llm.model.kv_cache import KVCache
from llm.model.transformer import Output, Transformer

__all__ = ['KVCache', 'Output', 'Transformer']
