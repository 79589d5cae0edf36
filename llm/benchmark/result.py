"""What a benchmark leaves: one JSON file with everything that is needed to believe, repeat or compare its numbers."""

import dataclasses
import json
import pathlib
import platform
import time
from dataclasses import dataclass, field
from typing import Any

from llm.analysis import flops
from llm.benchmark.measure import Timing, summary
from llm.errors import UserError
from llm.workdir import write_atomically

SCHEMA_VERSION = 1  # raised when a field changes its meaning; results compare within a version
IMPOSSIBLE = 1.05  # achieved FLOP/s above so many times the data sheet's peak mean that the measurement is wrong


@dataclass(frozen=True)
class Case:
    """One thing measured.

    Attributes:
        kind: of benchmark.
        name: the shape in words; with `backend`, what `compare` matches.
        shape: the same as numbers.
        dtype: of the matrix products' operands.
        backend: what was asked for; empty where there is no choice.
        kernel: what ran.
        unavailable: why nothing was measured; empty if something was.
        devices: how many shared the work.
        seconds: of one call, from each repeat.
        calls: how many calls a repeat ran before it waited.
        tokens: processed by one call; 0 where there are none.
        flops: of one call, by convention (`compiled` is the compiler's own count).
        bytes: moved by one call, by who says so: `minimum` (each operand and result once) or `compiled`.
        memory: bytes on one device, by the compiled program.
        compile_seconds: of each stage before the first result, and `first_call`.
        notes: what a reader has to know.
        extra: numbers that only this kind has.
        derived: rates and ratios computed from the above, see `derive`.
    """

    kind: str
    name: str
    shape: dict[str, Any]
    dtype: str = ''
    backend: str = ''
    kernel: str = ''
    unavailable: str = ''
    devices: int = 1
    seconds: tuple[float, ...] = ()
    calls: int = 1
    tokens: int = 0
    flops: dict[str, float | None] = field(default_factory=dict)
    bytes: dict[str, float | None] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    derived: dict[str, Any] = field(default_factory=dict)

    def timed(self, timing: Timing, **more: Any) -> 'Case':
        """The case with its times."""
        compile_seconds = self.compile_seconds | {'first_call': timing.first_call}
        more = {'compile_seconds': compile_seconds} | more
        return dataclasses.replace(self, seconds=tuple(timing.seconds), calls=timing.calls, **more)

    @property
    def convention(self) -> str | None:
        """Which FLOPs stand for the case where one number is wanted: what the mask leaves, never the compiler's."""
        for name in (flops.DEFAULT_CONVENTION, 'attention_causal', '2N+attention_causal', 'matmul'):
            if name in self.flops:
                return name
        return None


@dataclass(frozen=True)
class Result:
    """One run of one kind of benchmark."""

    kind: str
    options: dict[str, Any]
    environment: dict[str, Any]
    hardware: dict[str, Any]
    cases: tuple[Case, ...]
    schema_version: int = SCHEMA_VERSION
    flops_version: int = flops.VERSION

    def save(self, folder: pathlib.Path, name: str = '') -> pathlib.Path:
        """Writes `<kind>.json` into the folder, or `<name>.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'{name or self.kind}.json'
        write_atomically(path, json.dumps(dataclasses.asdict(self), indent=1) + '\n')
        return path

    @classmethod
    def load(cls, path: pathlib.Path | str) -> 'Result':
        """Reads what `save` wrote.

        Raises:
            UserError: if it is no result, or one of another schema version.
        """
        try:
            data = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
        except OSError as error:
            raise UserError(f'cannot read {path}: {error.strerror}; give the JSON file of a benchmark') from error
        except ValueError as error:
            raise UserError(f'{path} is not JSON ({error}); give the JSON file of a benchmark') from error
        version = data.get('schema_version') if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(
                f'{path} has schema version {version} and this program reads {SCHEMA_VERSION}; measure it again'
            )
        try:
            cases = tuple(Case(**case) for case in data.pop('cases'))
            tuples = ('seconds', 'notes')
            cases = tuple(dataclasses.replace(c, **{n: tuple(getattr(c, n)) for n in tuples}) for c in cases)
            return cls(cases=cases, **data)
        except (KeyError, TypeError) as error:
            raise UserError(f'{path} is damaged ({error}); measure it again') from error


def derive(case: Case, hardware: dict[str, Any]) -> Case:
    """Fills `derived` from the times, the work and the hardware's limits.

    - `seconds`: median, 95% interval, extremes, quartiles;
    - `tokens_per_second` (with `low` and `high`), `flops_per_second` by convention, `bytes_per_second` by source;
    - `mfu`: by convention, of the data sheet's peak and of the peak measured in the same run, None where not known;
    - `intensity` (FLOPs a byte) and `roofline`: min(peak, bandwidth x intensity), what limits it, and the fraction
      reached, with peak and bandwidth as measured in the same run.
    """
    if not case.seconds:
        return case
    times = summary(case.seconds)
    median = times['median']
    derived: dict[str, Any] = {'seconds': times}
    if case.kind == 'decode':
        derived |= _per_token(case, median, hardware)
    if case.tokens:
        derived['tokens_per_second'] = {
            'median': case.tokens / median,
            'low': case.tokens / times['high'],
            'high': case.tokens / times['low'],
        }
    rates = {name: value / median for name, value in case.flops.items() if value}
    derived['flops_per_second'] = rates
    derived['bytes_per_second'] = {name: value / median for name, value in case.bytes.items() if value}
    peaks = {source: peak_of(hardware, source, case.dtype, case.devices) for source in ('datasheet', 'measured')}
    derived['peak_flops'] = peaks
    derived['mfu'] = {
        name: {source: None if peak is None else rate / peak for source, peak in peaks.items()}
        for name, rate in rates.items()
    }
    notes = case.notes
    moved = case.bytes.get('minimum') or case.bytes.get('compiled')
    bandwidth = bandwidth_of(hardware, case.devices)
    if case.convention and moved and peaks['measured'] and bandwidth and rates.get(case.convention):
        intensity = case.flops[case.convention] / moved
        bound = min(peaks['measured'], bandwidth * intensity)
        derived['intensity'] = intensity
        derived['roofline'] = {
            'bound_flops_per_second': bound,
            'limited_by': 'compute' if peaks['measured'] <= bandwidth * intensity else 'memory',
            'fraction': rates[case.convention] / bound,
            'convention': case.convention,
            'bytes': 'minimum' if case.bytes.get('minimum') else 'compiled',
        }
    for name, rate in rates.items():
        if peaks['datasheet'] and rate > IMPOSSIBLE * peaks['datasheet'] and 'full' not in name:
            notes = (*notes, f'{name}: {rate:.3g} FLOP/s is more than the device can do; do not believe this case')
    return dataclasses.replace(case, derived=derived, notes=notes)


def _per_token(case: Case, median: float, hardware: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of one token of every row, and of the floor: the time to read what it has to read."""
    rounds = case.shape['new_tokens'] if case.shape['part'] == 'decode' else 1
    bandwidth = bandwidth_of(hardware, case.devices)
    floor = None if bandwidth is None else case.bytes['minimum'] / bandwidth
    return {
        'milliseconds_per_token': 1e3 * median / rounds,
        'floor_milliseconds_per_token': None if floor is None else 1e3 * floor / rounds,
    }


def peak_of(hardware: dict[str, Any], source: str, dtype: str, devices: int = 1) -> float | None:
    """Peak FLOP/s of all devices of a case by `datasheet` or `measured`; virtual CPU devices share one processor."""
    peak = hardware.get(source, {}).get('flops_per_second', {}).get(dtype)
    return None if peak is None else peak * (devices if hardware.get('platform') != 'cpu' else 1)


def bandwidth_of(hardware: dict[str, Any], devices: int = 1) -> float | None:
    """Bytes per second of all devices of a case: measured, or else the data sheet's."""
    for source in ('measured', 'datasheet'):
        if value := hardware.get(source, {}).get('bytes_per_second'):
            return value * (devices if hardware.get('platform') != 'cpu' else 1)
    return None


def environment() -> dict[str, Any]:
    """Versions, hardware, the code's version, flags and date. Imports jax."""
    import os

    import flax
    import jax
    import jaxlib
    import optax

    from llm.environment import code_version, cpu_model, processors

    return {
        'date': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        'code': code_version(),
        'python': platform.python_version(),
        'jax': jax.__version__,
        'jaxlib': jaxlib.__version__,
        'flax': flax.__version__,
        'optax': optax.__version__,
        'platform': jax.default_backend(),
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'cpu': cpu_model(),
        'cores': processors(),
        'host_threads': os.environ.get('NPROC', ''),
        'system': f'{platform.system()} {platform.release()}',
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
    }
