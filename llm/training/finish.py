"""What is made of a run when it is done: its report."""

import pathlib

from llm import runtime
from llm.analysis import baselines
from llm.analysis.report import write_report
from llm.config import NextToken
from llm.data.prepare import prepare
from llm.inference.generate import Generator
from llm.model import Transformer
from llm.tokenizer import open_workdir
from llm.training.checkpoint import load_params
from llm.workdir import Workdir

SENTENCE = 'def add(a, b):\n    """Return the sum of two numbers."""\n    return a + b\n'
MOST_LIKELY = 12


def report(workdir: Workdir) -> pathlib.Path:
    """Writes report.html: what the run left behind, beside gzip and xz computed now on the same held-out documents."""
    config = runtime.usable_config(workdir)
    if not isinstance(config.objective, NextToken):
        return write_report(workdir)
    tokenizer = open_workdir(workdir.path)
    _, params = load_params(workdir)
    generator = Generator(Transformer(config.model), params, tokenizer)
    prompt = config.evaluation.sample_prompt
    held_out = prepare(config, tokenizer).held_out
    documents = [tokenizer.decode_bytes(store.document(i)) for store in held_out for i in range(store.num_documents)]
    ids = tokenizer.encode(SENTENCE)
    return write_report(
        workdir,
        baselines=baselines.compressors(documents),
        prompt=prompt,
        probabilities=[(piece, p) for piece, _, p in generator.next_token_table(prompt, MOST_LIKELY)],
        tokenisation=[(tokenizer.piece(i), i, tokenizer.token_bytes(i)) for i in ids],
    )
