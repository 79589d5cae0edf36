"""How fast, and how far from the hardware's limit: `python -m llm benchmark`. Imports no data library."""
