"""lm-evaluation-harness on our models: its tasks, prompts and metrics, our likelihoods and texts.

Needs the extra `eval` (lm-eval), and neither torch nor transformers. Tasks come from folders of YAML files, which works
without a network, or are the harness's own, whose data it downloads from the Hugging Face hub.

A model's likelihoods are those of `llm.inference.scoring`; where a context ends and a continuation begins is decided as
the harness's own model class `hf` does, so on equal weights the numbers are equal (a test holds both to each other).
"""

import contextlib
import difflib
import functools
import importlib.metadata
import json
import logging as python_logging
import os
import pathlib
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from llm.errors import MachineError, UserError, first_line
from llm.evaluation.results import INTERVAL, Metric, Result
from llm.evaluation.subject import Subject
from llm.evaluation.tasks import Settings
from llm.inference.sampling import SamplingParams
from llm.inference.scoring import Pair, rolling_pairs
from llm.interop import harness_chat as templates
from llm.tokenizer import GlassboxTokenizer

try:
    from lm_eval.api.model import TemplateLM
except ImportError as _error:
    raise UserError(
        "tasks of lm-evaluation-harness need lm-eval; install it with pip install 'glassbox-llm[eval]'"
    ) from _error

MAX_GENERATED = 256  # tokens, where a task names no limit; the harness has the same
SEED = 1234  # of the few-shot examples, as the harness has it
BOOTSTRAP = 1000  # resamples for the standard errors that have no formula
_LOUD = ('lm_eval', 'huggingface_hub', 'datasets')  # what they remark, the result or the error says too
_KNOWN = ('temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty')


class GlassboxLM(TemplateLM):
    """What the harness asks a model: likelihoods of continuations and of whole texts, and texts.

    Texts are tokenised as in training, with <bos> in front where the tokenizer puts one. A special token that a text
    spells is ordinary text; with `as_chat`, where every context comes out of the chat template, it is meant.
    """

    def __init__(self, subject: Subject, as_chat: bool = False):
        super().__init__()
        self.subject, self._as_chat = subject, as_chat

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at once."""
        return self.subject.model.config.context_length

    @property
    def eot_token_id(self) -> int:
        return self.subject.tokenizer.end_id

    @property
    def prefix_token_id(self) -> int:
        return self.subject.tokenizer.start_id

    @property
    def tokenizer_name(self) -> str:
        return f'glassbox-{self.subject.tokenizer.digest[:16]}'

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text. Without a prompt for an answer, the last message is one that has begun.

        Raises:
            UserError: if roles do not take turns, there is no template, or a message spells a special token.
        """
        return templates.render(self.subject.tokenizer, chat_history, open_end=not add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Nothing: what the harness would write down, it is told by `tokenizer_name`."""
        return ''

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; with <bos> in front, where the tokenizer puts one, unless that is declined."""
        tokenizer = self.subject.tokenizer
        prefix = list(tokenizer.prefix_ids)
        ids = templates.encode(tokenizer, string) if self._as_chat else tokenizer.encode(string)
        if add_special_tokens is False or (self._as_chat and ids[: len(prefix)] == prefix):
            return ids
        return [*prefix, *ids]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihoods in nats of continuations of contexts, and whether greedy decoding would write them."""
        asked = []
        for request in requests:
            pair = self.subject.text_pair(*request.args, self.tok_encode)
            asked.append((request.args, list(pair.context), list(pair.continuation)))
        return self._loglikelihood_tokens(asked, disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        with _bar('log-likelihoods', len(requests), disable_tqdm) as bar:
            scores = self.subject.scorer.score([Pair(*request[1:]) for request in requests], bar.update)
        return [(score.logprob, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of whole texts, see `scoring.rolling_pairs`."""
        texts = [request.args[0] for request in requests]
        cut = [rolling_pairs(self._rolled(text), self.prefix_token_id, self.max_length) for text in texts]
        with _bar('windows', sum(map(len, cut)), disable_tqdm) as bar:
            scores = iter(self.subject.scorer.score([pair for pairs in cut for pair in pairs], bar.update))
        return [sum(next(scores).logprob for _ in pairs) for pairs in cut]

    def _rolled(self, text: str) -> list[int]:
        """The ids of a text that is scored as a whole.

        A tokenizer from elsewhere puts its <bos> in front, if it does so with every text, though the text follows one
        already: the harness scores that second one too, and what it reports is to be comparable.
        """
        tokenizer = self.subject.tokenizer
        return tokenizer.encode(text) if isinstance(tokenizer, GlassboxTokenizer) else self.tok_encode(text)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continues contexts until a stop text, the end of the sequence, or the longest length.

        A context that leaves no room loses its first tokens.

        Raises:
            UserError: if a task asks for a way of drawing that there is not, or for more than the context holds.
        """
        generator = self.subject.assistant if self._as_chat else self.subject.generator
        jobs: dict[tuple, list[tuple[int, list[int]]]] = {}
        for number, request in enumerate(requests):
            context, arguments = request.args
            sampling, stop, longest = _drawing(arguments, number)
            if longest >= self.max_length:
                raise UserError(
                    f'a task asks for {longest} new tokens, and the context is {self.max_length}; set max_gen_toks in '
                    'its generation_kwargs'
                )
            ids = self.tok_encode(context)[-(self.max_length - longest) :] or [self.prefix_token_id]
            jobs.setdefault((stop, longest), []).append((number, ids, sampling))
        written: dict[int, str] = {}
        with _bar('texts', len(requests), disable_tqdm) as bar:
            for (stop, longest), job in jobs.items():
                job.sort(key=lambda one: -len(one[1]))
                for start in range(0, len(job), self.subject.generated_rows):
                    numbers, ids, sampling = zip(*job[start : start + self.subject.generated_rows])
                    found = generator.generate(ids, sampling, max_new_tokens=longest, stop=stop)
                    written.update(zip(numbers, (completion.text for completion in found)))
                    bar.update(len(numbers))
        return [written[number] for number in range(len(requests))]


def _drawing(arguments: dict[str, Any], number: int) -> tuple[SamplingParams, tuple[str, ...], int]:
    """Generation arguments of a task as sampling settings, stop texts and the longest length.

    Raises:
        UserError: for arguments that have no counterpart here.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    arguments = normalize_gen_kwargs(arguments, MAX_GENERATED)
    stop, longest = tuple(text for text in arguments.pop('until') if text), arguments.pop('max_gen_toks')
    sample = arguments.pop('do_sample')
    unknown = sorted(name for name, value in arguments.items() if name not in _KNOWN and value is not None)
    if unknown:
        raise UserError(
            f'a task asks for {", ".join(unknown)} in its generation_kwargs; known are {", ".join(_KNOWN)}, '
            'do_sample, until and max_gen_toks'
        )
    drawn = {name: arguments[name] for name in _KNOWN if arguments.get(name) is not None}
    temperature = float(drawn.pop('temperature', 1.0))
    temperature = temperature if sample else 0.0
    try:
        return SamplingParams(**drawn, temperature=temperature, seed=number if sample else 0), stop, longest
    except (TypeError, ValueError) as error:
        raise UserError(f"a task's generation_kwargs: {first_line(error)}") from error


def version() -> str:
    """The harness's."""
    return importlib.metadata.version('lm-eval')


def load_tasks(names: Sequence[str], include_path: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Finds tasks, groups and tags, and reads their data.

    Args:
        names: of tasks, or paths of YAML files.
        include_path: folders with YAML files. The harness's own tasks are only looked at for names that are not there.

    Returns:
        What the harness's `TaskManager.load` gives for each name.

    Raises:
        UserError: if there is no such task, or its data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    for folder in include_path:
        if not pathlib.Path(folder).is_dir():
            raise UserError(f'there is no folder {folder}; --include-path names folders with YAML files of tasks')
    with _quiet():
        folders = [str(pathlib.Path(folder).expanduser().resolve()) for folder in include_path]
        manager = TaskManager(include_path=folders, include_defaults=False)
        if any(name not in manager.all_tasks and not pathlib.Path(name).is_file() for name in names):
            manager = TaskManager(include_path=folders)
        loaded = {}
        for name in names:
            if name not in manager.all_tasks and not pathlib.Path(name).is_file():
                close = difflib.get_close_matches(name, manager.all_tasks, n=1)
                hint = f'perhaps you meant {close[0]}' if close else 'check the name'
                raise UserError(f'there is no file, corpus or harness task {name}; {hint}')
            try:
                loaded[name] = manager.load([name])
            except Exception as error:  # whatever datasets, YAML or the code of a task raises
                raise UserError(
                    f'the harness cannot load {name}: {type(error).__name__}: {first_line(error)} (data that is not on '
                    'disk needs the network)'
                ) from error
            for task in loaded[name]['tasks'].values():
                if getattr(task, 'UNSAFE_CODE', False):
                    raise UserError(f'{name} runs what the model writes as code, which is not done here; leave it out')
                if getattr(task, 'MULTIMODAL', False):
                    raise UserError(f'{name} shows pictures, which the model cannot see; leave it out')
    return loaded


def configuration(loaded: dict[str, Any]) -> dict[str, Any]:
    """What a loaded task is, as far as it can be written down: its configuration and the fingerprint of its data."""
    described = {}
    for name, task in loaded['tasks'].items():
        config = task.dump_config()
        config.pop('metadata', None)
        prints = {split: getattr(rows, '_fingerprint', None) for split, rows in (task.dataset or {}).items()}
        described[name] = json.loads(json.dumps({'config': config, 'data': prints}, default=str, sort_keys=True))
    return described


def measure(name: str, loaded: dict[str, Any], subject: Subject, settings: Settings) -> Result:
    """Runs a task, or all those of a group.

    Args:
        name: as the user gave it.
        loaded: of `load_tasks`.
        subject: the model.
        settings: `limit`, `num_fewshot` and `chat` concern it.

    Returns:
        The harness's metrics. Those of a group's tasks are named `task: metric`.

    Raises:
        UserError: if a task asks for what there is not.
        MachineError: if the harness fails.
    """
    import lm_eval

    _prepare(loaded['tasks'], settings.num_fewshot)
    with _quiet():
        try:
            found = lm_eval.evaluate(
                GlassboxLM(subject, settings.chat),
                loaded,
                limit=settings.limit,
                bootstrap_iters=BOOTSTRAP,
                apply_chat_template=settings.chat,
                fewshot_as_multiturn=True,  # the harness's own default
            )
        except (UserError, MachineError):
            raise
        except Exception as error:
            said = f'{type(error).__name__}: {first_line(error)}'
            raise MachineError(f'lm-evaluation-harness failed on {name}: {said}') from error
    results, samples = found.get('groups', {}) | found['results'], found['samples']
    metrics = [
        metric
        for task, measured in results.items()
        for metric in _metrics(measured, '' if len(results) == 1 else f'{task}: ')
    ]
    shots = sorted({int(shots) for shots in found['n-shot'].values()})
    facts = {
        'samples': sum(map(len, samples.values())),
        'examples before each': ', '.join(map(str, shots)),
        'tasks': ', '.join(samples) if len(samples) > 1 else None,
        'chat template': settings.chat,
        'harness': f'lm-eval {version()}',
    }
    return Result(name, 'lm_eval', tuple(metrics), facts, samples=tuple(_samples(samples)))


def _prepare(tasks: dict[str, Any], num_fewshot: int | None) -> None:
    """Sets examples and seeds as the harness's own command does."""
    random.seed(0)
    np.random.seed(SEED)
    for name, task in tasks.items():
        own = task.get_config('num_fewshot')
        if num_fewshot is not None and own != 0:
            task.set_config(key='num_fewshot', value=num_fewshot)
        elif num_fewshot:
            logging.warning('%s is made to be asked without examples, so --num-fewshot makes no difference to it', name)
        elif own is None:
            task.set_config(key='num_fewshot', value=0)
        task.set_fewshot_seed(seed=SEED)


def _metrics(found: dict[str, Any], prefix: str) -> Iterator[Metric]:
    """The harness's `name,filter` and `name_stderr,filter` entries as metrics."""
    from llm.analysis import statistics

    reach = statistics.normal_quantile(INTERVAL)
    for key, value in found.items():
        name, _, part = key.partition(',')
        if not part or name.endswith('_stderr') or not isinstance(value, int | float):
            continue
        error = found.get(f'{name}_stderr,{part}')
        error = float(error) if isinstance(error, int | float) else None
        ends = (None, None) if error is None else (value - reach * error, value + reach * error)
        shown = name if part == 'none' else f'{name} ({part})'
        yield Metric(prefix + shown, float(value), found.get('sample_len'), error, *ends, 'normal' if error else '')


def _samples(samples: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for task, rows in samples.items():
        for row in rows:
            asked = row['arguments']
            response = row['filtered_resps']
            yield {
                'task': task,
                'prompt': asked[0][0] if asked else '',
                'response': response[0] if len(response) == 1 else response,
                **row,
            }


def _bar(what: str, total: int, disabled: bool) -> tqdm:
    off = True if disabled else None  # None: where nobody looks
    return tqdm(desc=what, total=total, file=sys.stderr, disable=off, dynamic_ncols=True, leave=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the harness prints off stdout, its remarks and bars off logs, and its bootstrap in this process.

    A process that has started jax has threads, and must not be forked.
    """
    import datasets
    from lm_eval.api import task

    loggers, bars = [python_logging.getLogger(name) for name in _LOUD], datasets.is_progress_bar_enabled()
    levels, before = [logger.level for logger in loggers], os.environ.get('DISABLE_MULTIPROC')
    for logger in loggers:
        logger.setLevel(python_logging.ERROR)
    datasets.disable_progress_bars()
    os.environ['DISABLE_MULTIPROC'] = '1'
    task.tqdm = functools.partial(tqdm, disable=None, leave=False, dynamic_ncols=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        task.tqdm = tqdm
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        os.environ.pop('DISABLE_MULTIPROC')
        if before is not None:
            os.environ['DISABLE_MULTIPROC'] = before
