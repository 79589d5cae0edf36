"""One file per command of `python -m llm`: `Args`, a frozen dataclass, and `run(args)`. No logic of their own.

A command whose `Args` is a `Config` takes every option of the config besides its own, and `run(args, config)`.
"""
