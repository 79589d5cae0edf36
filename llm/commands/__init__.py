"""One file per command of `python -m llm`: `Args`, a frozen dataclass, and `run(args)`. No logic of their own."""
