"""Measure speed: training steps, attention, matrix products, decoding, data, compilation; compare results."""


def main(arguments: list[str]) -> None:
    from llm.benchmark.command_line import main

    main(arguments)
