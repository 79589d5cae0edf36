"""What a run has done so far: exact tokens, FLOPs and seconds, recent losses, batches left out. Kept in checkpoints."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax

from llm.analysis import flops, hardware
from llm.config import SFT, Config, Corrupted, NextToken, Online
from llm.training.divergence import divergence
from llm.training.metrics import MetricsWriter, means


def new_record() -> dict[str, Any]:
    """The record of a run that has done nothing."""
    return {
        'tokens': 0,  # trained on, see `llm.training.train_step.tokens_read`
        'seconds': 0.0,  # training time: without compiling, evaluating and saving
        'waited': 0.0,  # of those seconds, those the host waited for a batch
        'timed_tokens': 0,  # tokens of those seconds
        'recent_losses': [],  # of the last good steps, for telling an explosion
        'skipped': [],  # ranges [start, end) of batches left out
        'rollbacks': [],  # [step of divergence, step gone back to] of each
        'held_out_loss': None,  # if evaluated at this very step
    }


class Ledger:
    """Reads the metrics of finished steps, keeps the record, and writes rows."""

    def __init__(self, config: Config, writer: MetricsWriter, record: dict[str, Any], devices: int):
        self.record = record
        self._config, self._writer, self._devices = config, writer, devices
        self._flops_per_token = flops.flops_per_text_token(config)
        self._predicts_tokens = isinstance(config.objective, NextToken | SFT | Corrupted)
        device = jax.devices()[0]
        self._peak = hardware.peak_flops(device.device_kind, config.model.compute_dtype)
        self._clock: float | None = None  # when the last timed step ended
        self._since_row = (0.0, 0, 0.0)  # seconds, tokens and waiting timed up to the last row
        self._dispatched: float | None = None  # when the first step of this attempt was
        self.first_step_seconds: float | None = None  # until its metrics were there: tracing and compiling included
        self.sharing = 1  # runs among which the time of the devices is divided
        self.shown = ''  # the last row in a few words, for the progress bar
        self.mark()

    def mark(self) -> None:
        """Starts a new interval of throughput."""
        self._since_row = (self.record['seconds'], self.record['timed_tokens'], self._waited())

    def read(self, step: int, metrics: dict[str, tuple[Any, Any]]) -> str | None:
        """Waits for a step's metrics and enters them. Returns what is wrong with the step, if it diverged."""
        values = means({name: pair for name, pair in metrics.items() if name != 'tokens'})
        now = time.perf_counter()
        record, config = self.record, self._config
        recent = [] if isinstance(config.objective, Online) else record['recent_losses']  # a policy's loss wanders
        trouble = divergence(config.divergence, values['loss'], values['grad_norm'], recent)
        if trouble is not None:
            return trouble
        tokens = int(jax.device_get(metrics['tokens'][0]))
        if self._dispatched is not None and self.first_step_seconds is None:
            self.first_step_seconds = now - self._dispatched
            message = f'the first step took {self.first_step_seconds:.1f} s, compiling included'
            self._writer.write('event', step, event='first_step', message=message, seconds=self.first_step_seconds)
        record['recent_losses'] = [*record['recent_losses'], values['loss']][-config.divergence.window :]
        record['tokens'] += tokens
        if self._clock is not None:
            record['seconds'] += (now - self._clock) / self.sharing
            record['timed_tokens'] += tokens
        self._clock = now
        if step % config.log.every == 0 or step == config.training.steps:
            self._write_row(step, values)
        return None

    def _write_row(self, step: int, values: dict[str, Any]) -> None:
        speed = self._speed()
        self._writer.write(
            'train',
            step,
            **values,
            **({'perplexity': math.exp(min(values['loss'], 700))} if self._predicts_tokens else {}),
            **self.totals(),
            tokens_per_second=speed,
            data_wait_fraction=self._wait_fraction(self._since_row),
            mfu=None if speed is None else self._mfu(speed),
        )
        self.mark()
        self.shown = f'loss {values["loss"]:.3f}' + ('' if speed is None else f', {speed:,.0f} tokens/s')
        if speed is not None and self._mfu(speed) is not None:
            self.shown += f', MFU {self._mfu(speed):.1%}'

    def watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Passes batches on, and measures how long the host waits for each while the clock runs."""
        while True:
            asked = time.perf_counter()
            batch = next(batches)
            self.wait(time.perf_counter() - asked)
            yield batch

    def wait(self, seconds: float) -> None:
        """Enters how long the host waited for the batch of the step that is dispatched next."""
        if self._clock is not None:
            self.record['waited'] = self._waited() + seconds / self.sharing
        if self._dispatched is None:
            self._dispatched = time.perf_counter()

    def _waited(self) -> float:
        return self.record.get('waited', 0.0)  # a checkpoint of an older version has none

    def _wait_fraction(self, since: tuple[float, int, float]) -> float | None:
        seconds = self.record['seconds'] - since[0]
        return min(1.0, (self._waited() - since[2]) / seconds) if seconds > 0 else None

    def _speed(self) -> float | None:
        seconds = self.record['seconds'] - self._since_row[0]
        return (self.record['timed_tokens'] - self._since_row[1]) / seconds if seconds > 0 else None

    def _mfu(self, tokens_per_second: float) -> float | None:
        return flops.mfu(tokens_per_second, self._flops_per_token, self._peak, self._devices)

    def totals(self) -> dict[str, Any]:
        """Tokens, training FLOPs (by the default convention) and seconds so far."""
        tokens = self.record['tokens']
        return {
            'tokens': tokens,
            'flops': tokens * self._flops_per_token,
            'flops_version': flops.VERSION,
            'seconds': self.record['seconds'],
        }

    def timing(self) -> dict[str, float | None]:
        """Tokens per second and share of time spent waiting for batches, of the whole run; this start's first step."""
        return {
            'tokens_per_second': self.mean_speed(),
            'data_wait_fraction': self._wait_fraction((0.0, 0, 0.0)),
            'first_step_seconds': self.first_step_seconds,
        }

    def mean_speed(self) -> float | None:
        """Tokens per second over the whole run."""
        return self.record['timed_tokens'] / self.record['seconds'] if self.record['seconds'] > 0 else None

    def pause(self) -> None:
        """Stops the clock, at a moment when the device is idle."""
        self._clock = None

    def leave_out(self, seconds: float) -> None:
        """Does not count so much of the time since the last step."""
        if self._clock is not None:
            self._clock += seconds

    def resume(self) -> None:
        """Starts the clock again, right before the next step is dispatched."""
        self._clock = time.perf_counter()
