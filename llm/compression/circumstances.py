"""What an archive was made in: all that changes the last bits of a probability, and what is said where it differs."""

import os
from typing import Any

import jax
import jaxlib

from llm import runtime
from llm.compression.container import Archive
from llm.environment import code_version, cpu_model, processors
from llm.errors import UserError

_REMEDIES = {
    'host_threads': 'leave NPROC unset, or set it so',
    'jax': 'install that version of jax',
    'jaxlib': 'install that version of jaxlib',
    'xla_flags': 'set XLA_FLAGS so',
}


def numerics(compute_dtype: str) -> dict[str, str | int]:
    """What is known to change the last bits, by name.

    Args:
        compute_dtype: of the model.
    """
    return {
        'host_threads': int(os.environ.get('NPROC', processors())),
        'jax': jax.__version__,
        'jaxlib': jaxlib.__version__,
        'device_kind': jax.devices()[0].device_kind,
        'xla_flags': runtime.xla_flags(),
        'compute_dtype': compute_dtype,
    }


def made_by() -> dict[str, str]:
    """What may change them too, and need not: whether it did, the fingerprint of the first step tells."""
    return {'cpu': cpu_model(), 'code': code_version()}


def check(archive: Archive) -> None:
    """Refuses an archive whose probabilities this process would not compute again.

    Raises:
        UserError: that names the first thing that differs.
    """
    there: dict[str, Any] = archive.header.coding.numerics
    here = numerics(there['compute_dtype'])
    for name, value in there.items():
        if here.get(name) != value:
            raise UserError(
                f'{archive.where} was compressed with {name} {value!r}, and here it is {here.get(name)!r}, which '
                f'changes the last bits of probabilities; {_REMEDIES.get(name, "decompress it on such a machine")}'
            )


def other_numbers(archive: Archive) -> str:
    """What is said when the first step gives other frequencies than it gave the archive's maker."""
    here = made_by()
    differs = [
        f'{name} {value!r} there, {here[name]!r} here'
        for name, value in archive.header.coding.made_by.items()
        if here.get(name) != value
    ]
    return (
        f"here the model's probabilities differ in their last bits from those that {archive.where} was made with "
        f'({"; ".join(differs) or "for no known reason"}); decompress it where it was made'
    )
