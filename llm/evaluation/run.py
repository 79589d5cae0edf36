"""Measures tasks one after the other, keeps what was found, and goes on where an earlier call stopped."""

import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import logging
from tqdm import tqdm

from llm.config import Distillation
from llm.environment import code_version
from llm.errors import UserError
from llm.evaluation import page, subject
from llm.evaluation.results import Folder, Result
from llm.evaluation.tasks import Settings, check, resolve
from llm.tokenizer import Tokenizer
from llm.workdir import Workdir


def evaluate_tasks(
    workdir: Workdir,
    names: Sequence[str],
    settings: Settings,
    *,
    step: int | None = None,
    ema: bool = False,
    batch_size: int | None = None,
    again: bool = False,
) -> tuple[list[Result], Any]:
    """Measures a checkpoint on tasks.

    Every task is found and every row checked before anything is measured; each result is written when it is there.

    Args:
        workdir: of the run.
        names: see `llm.evaluation.tasks`.
        settings: how to measure.
        step: which checkpoint; None is the newest good one.
        ema: the averaged parameters instead of the raw ones.
        batch_size: rows of a whole context that are read together; None is chosen.
        again: measure also what has been measured already.

    Returns:
        The results, in the order of the names, and the path of the page.

    Raises:
        UserError: if a task or a row of it is wrong.
    """
    defaults = Settings()
    given = [f.name for f in dataclasses.fields(Settings) if getattr(settings, f.name) != getattr(defaults, f.name)]
    config = workdir.config()
    trained_on, missing = corpora_of(workdir)
    reads_images = config.model.image_size is not None
    tasks = [resolve(name, config.data, trained_on, settings, reads_images) for name in names]
    check(tasks, settings, given)
    harness = [task for task in tasks if task.kind == 'lm_eval']
    loaded = {}
    if harness:
        adapter = _harness(harness[0].name)

        loaded = adapter.load_tasks([task.content for task in harness], settings.include_path)
    model = subject.load(workdir, step, ema, batch_size)
    folder = Folder(workdir.path / 'evaluations' / f'step_{model.step}{"_ema" if ema else ""}')
    identity = {
        'params_sha256': model.params_sha256,
        'step': model.step,
        'ema': ema,
        'code': code_version(),
        **_of_tokenizer(model.tokenizer),
    }
    found = []
    for task in tasks:
        depends_on = identity | task.depends_on(settings)
        noted = {}
        if missing and task.kind == 'bits_per_byte':
            noted = {'started or learned from, and not found here': missing}
            depends_on |= noted
        if task.kind == 'lm_eval':
            depends_on |= {'harness': adapter.version(), 'task': adapter.configuration(loaded[task.content])}
        result = None if again else folder.find(task.name, depends_on)
        if result is not None:
            print(f'{task.name}: measured already, --again measures it anew', file=sys.stderr)
        elif task.kind == 'lm_eval':
            result = adapter.measure(task.name, loaded[task.content], model, settings)
            folder.write(result, depends_on)
        else:
            with tqdm(desc=task.name, total=task.total, unit=task.unit, **_BAR) as bar:
                result = task.measure(model, settings, bar.update)
            result = dataclasses.replace(result, facts=result.facts | noted)
            folder.write(result, depends_on)
        found.append(dataclasses.replace(result, samples=()))
    return found, page.write(workdir, folder, model.params_sha256)


def _harness(name: str) -> Any:
    """The adapter to lm-evaluation-harness, which may not be installed."""
    try:
        from llm.interop import lm_eval as adapter
    except UserError as error:
        raise UserError(f'{name} is no file and no corpus, and {error}') from error
    return adapter


def _of_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides the ids that are measured, and where an answer ends."""
    template = tokenizer.chat_template
    return {
        'tokenizer': tokenizer.digest,
        'chat_template': template and hashlib.sha256(template.source.encode('utf-8', 'surrogatepass')).hexdigest(),
        'stop_ids': tokenizer.stop_ids,
    }


def corpora_of(workdir: Workdir) -> tuple[set[str], str | None]:
    """The corpora that a run was trained on, it and the runs that it started or learned from, as far as they are here.

    Returns:
        The corpora, as their configs spell them; the first run, if any, that is not found, which a warning says.
    """
    corpora: set[str] = set()
    seen: set[pathlib.Path] = set()
    missing, left = None, [workdir]
    while left:
        run = left.pop(0)
        if run.path.resolve() in seen:
            continue
        seen.add(run.path.resolve())
        config = run.config()
        if run.summary().get('step') != 0:  # at 0 it has been imported, and trained elsewhere
            corpora.update(config.data.corpora)
        taught_by = config.objective.teacher if isinstance(config.objective, Distillation) else ''
        for path, how in ((config.init_from.workdir, 'started'), (taught_by, 'learned')):
            source = _ancestor(run, path) if path else None
            if source is not None:
                left.append(source)
            elif path:
                missing = missing or path
                logging.warning(
                    '%s %s from %s, which is not here: what that was trained on is measured whole, and not only where '
                    'it was held out; start from the folder that the run was started in',
                    *(run.path, how, path),
                )
    return corpora, missing


def _ancestor(run: Workdir, path: str) -> Workdir | None:
    """The run that another started from: seen from where we are, else from a folder that the other lies in."""
    own = run.path.resolve()
    for base in (pathlib.Path(), *own.parents):
        if (base / path / 'config.json').is_file() and (base / path).resolve() != own:
            return Workdir(base / path)
    return None


_BAR = {'file': sys.stderr, 'disable': None, 'dynamic_ncols': True, 'leave': False, 'unit_scale': True}
