"""List what is cached, with sizes, and clean it."""

import time
from dataclasses import dataclass

from llm.errors import MachineError, UserError


@dataclass(frozen=True)
class Args:
    clean: tuple[str, ...] | None = None  # remove these kinds; without a kind, everything
    yes: bool = False  # with --clean: really do it


def run(args: Args) -> None:
    from llm import cache
    from llm.analysis import units

    for kind in args.clean or ():
        if kind not in cache.KINDS:
            raise UserError(f'there is no kind {kind} in the cache; choose among {", ".join(cache.KINDS)}')
    if args.yes and args.clean is None:
        raise UserError('--yes confirms --clean, which is missing; add --clean, or leave --yes out')
    kinds = cache.KINDS if args.clean is None else args.clean or cache.KINDS
    entries = [entry for entry in cache.entries() if entry.kind in kinds]
    rows = [
        [e.kind, e.description or e.key, units.size(e.bytes), time.strftime('%Y-%m-%d %H:%M', time.localtime(e.used))]
        for e in entries
    ]
    print(f'{cache.root()}: {len(entries)} entries, {units.size(sum(e.bytes for e in entries))}')
    if entries:
        print(units.table(['kind', 'what', 'size', 'last used'], rows, left=2))
    if args.clean is None or not entries:
        return
    if not args.yes:
        raise UserError('nothing was removed; add --yes to remove what is listed')
    busy = [entry for entry in entries if not cache.remove(entry.kind, entry.key)]
    print(f'removed {len(entries) - len(busy)} of {len(entries)} entries')
    if busy:
        raise MachineError(f'{len(busy)} entries are being built by another process; clean them when it is done')
