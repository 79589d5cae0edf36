"""Models as Hugging Face's `transformers` saves them, in and out.

    config, params = load('path/of/a/model')
    logits = Transformer(config.model).apply({'params': params}, tokens).logits
    save(config, params, 'path/of/another')

Which families there are, and how each names its parameters: `llm.interop.huggingface.families`.
"""

from llm.interop.huggingface.load import load
from llm.interop.huggingface.save import save

__all__ = ['load', 'save']
