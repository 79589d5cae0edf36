"""What a run leaves on disk, and how to open one again.

    config.json       the config, with its schema version
    runtime.json      choices made at the first start that change bits (device kind, host threads), and who made them
    tokenizer.model   text to ids; or, of a model from elsewhere, the folder tokenizer/ with its files as they came
    metrics.jsonl     the truth, append-only: one row per logged step, evaluation, sample and event
    events/           the same for TensorBoard
    checkpoints/      parameters, optimizer state and data position by step
    frozen/           parameters that the run uses and does not train: a reference, or what LoRA adapts
    reference.npz     log-probabilities of the reference model, for DPO
    summary.json      how the run stands: `status` is running, done, interrupted or failed
    report.html       for people
    evaluations/      what `evaluate --tasks` found, by checkpoint

Rows of metrics.jsonl carry `kind` (train, evaluation, sample, event), `step` (updates made) and `attempt` (starts so
far). A later attempt may log a step again; readers take the last row.
"""

import json
import os
import pathlib
from typing import Any

from llm import config_json
from llm.config import Config
from llm.errors import UserError


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Replaces the file as a whole: a reader, or a crash, sees the old content or the new one."""
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # such as on a full disk
        raise


class Workdir:
    """One run's folder."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workdir) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'Workdir':
        """Opens a folder that a run has been started in.

        Raises:
            UserError: if there is none.
        """
        workdir = cls(path)
        if not workdir.path.is_dir():
            raise UserError(f'there is no workdir {workdir.path}; make one with `python -m llm train --workdir ...`')
        if not (workdir.path / 'config.json').is_file():
            raise UserError(f'{workdir.path} is not a workdir: it has no config.json')
        return workdir

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / 'checkpoints'

    @property
    def frozen(self) -> pathlib.Path:
        return self.path / 'frozen'

    @property
    def reference_file(self) -> pathlib.Path:
        return self.path / 'reference.npz'

    @property
    def tokenizer_file(self) -> pathlib.Path:
        return self.path / 'tokenizer.model'

    @property
    def metrics_file(self) -> pathlib.Path:
        return self.path / 'metrics.jsonl'

    def config(self) -> Config:
        """The stored config, as the user gave it.

        Raises:
            UserError: if it cannot be read, or was written by a newer version.
        """
        return config_json.from_json(self._read('config.json'))

    def summary(self) -> dict[str, Any]:
        """How the run stands; empty before the first step."""
        return self._json('summary.json')

    def finished(self, config: Config) -> dict[str, Any] | None:
        """The summary of a run that has made all the steps of its config; None of another."""
        summary = self.summary()
        return summary if summary.get('status') == 'done' and summary['step'] == config.training.steps else None

    def runtime(self) -> dict[str, Any]:
        """The stored run-time choices; empty before the first start."""
        return self._json('runtime.json')

    def _json(self, name: str) -> dict[str, Any]:
        if not (self.path / name).is_file():
            return {}
        try:
            data = json.loads(self._read(name))
        except ValueError as error:
            raise UserError(f'{self.path / name} is damaged ({error}); restore it from a copy') from error
        if not isinstance(data, dict):
            raise UserError(f'{self.path / name} is damaged (it holds no object); restore it from a copy')
        return data

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'cannot read {self.path / name}: {error}') from error

    def write_config(self, config: Config) -> None:
        write_atomically(self.path / 'config.json', config_json.to_json(config) + '\n')

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.path / 'summary.json', json.dumps(summary, indent=2) + '\n')

    def write_runtime(self, runtime: dict[str, Any]) -> None:
        write_atomically(self.path / 'runtime.json', json.dumps(runtime, indent=2) + '\n')

    def rows(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl in the order of their steps, the last attempt's where a step was logged twice.

        Args:
            kind: only rows of this kind; events are all kept.
        """
        if not self.metrics_file.is_file():
            return []
        latest, order = {}, 0
        with open(self.metrics_file, 'rb') as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # a line torn by a crash; the next start cuts it off
                if kind is None or row['kind'] == kind:
                    order += 1
                    latest[(row['step'], row['kind'], order if row['kind'] == 'event' else 0)] = row
        return sorted(latest.values(), key=lambda row: row['step'])

    def repair_metrics(self) -> bool:
        """Cuts off a last line that a crash left torn. Returns whether there was one."""
        if not self.metrics_file.is_file():
            return False
        with open(self.metrics_file, 'rb+') as file:
            data = file.read()
            end = data.rfind(b'\n') + 1
            if end == len(data):
                return False
            file.truncate(end)
        return True

    def last_attempt(self) -> int:
        return max((row['attempt'] for row in self.rows()), default=0)
