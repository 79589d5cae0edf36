"""lm-evaluation-harness on our models: its tasks, prompts and metrics, our likelihoods and texts.

Needs the extra `eval` (lm-eval), and neither torch nor transformers. Tasks come from folders of YAML files, which works
without a network, or are the harness's own, whose data it downloads from the Hugging Face hub.

A model's likelihoods are those of `llm.inference.scoring`; where a context ends and a continuation begins is decided as
the harness's own model class `hf` does, so on equal weights the numbers are equal (a test holds both to each other).
"""

from llm.errors import UserError

try:
    import lm_eval as _  # noqa: F401
except ImportError as _error:
    raise UserError(
        "tasks of lm-evaluation-harness need lm-eval; install it with pip install 'glassbox-llm[eval]'"
    ) from _error

from llm.interop.lm_eval.model import GlassboxLM
from llm.interop.lm_eval.tasks import configuration, load_tasks, measure, version

__all__ = ['GlassboxLM', 'configuration', 'load_tasks', 'measure', 'version']
