"""Corpora to documents, documents to a token store, a token store to batches."""
