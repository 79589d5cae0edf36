"""Two results side by side: how many times as fast B is as A, with intervals, and what has no partner."""

from collections.abc import Sequence

from llm.analysis import units
from llm.benchmark import tables
from llm.benchmark.measure import ratio
from llm.benchmark.result import Case, Result
from llm.errors import UserError

SAME = ('device', 'devices', 'cpu', 'cores', 'jax', 'jaxlib', 'flax', 'optax', 'python', 'code', 'xla_flags')


def compare_files(files: Sequence[str]) -> str:
    """`compare` of two files.

    Raises:
        UserError: if they are not two results of this schema version.
    """
    if len(files) != 2:
        raise UserError(f'benchmark compare takes two files, A.json and B.json; it got {len(files)}')
    return compare(Result.load(files[0]), Result.load(files[1]))


def compare(a: Result, b: Result) -> str:
    """A Markdown page: what differs in the environment, a row per matching case, and the cases without a partner.

    Cases match by kind, name and backend asked for; what is left then matches by kind and name where that leaves no
    choice, so that two backends, or another program's result, can be set side by side.
    """
    pairs, only_a, only_b = match(a.cases, b.cases)
    nowhere = {(case.name, case.backend) for case in only_a if case.unavailable}
    nowhere &= {(case.name, case.backend) for case in only_b if case.unavailable}
    lines = [f'# benchmark {a.kind}: A and B' if a.kind == b.kind else f'# benchmark {a.kind} (A) and {b.kind} (B)', '']
    for name in SAME:
        left, right = a.environment.get(name), b.environment.get(name)
        if left != right:
            lines.append(f'- {name}: {left} in A, {right} in B')
    if a.flops_version != b.flops_version:
        lines.append(
            f'- FLOP conventions: version {a.flops_version} in A, {b.flops_version} in B; MFU does not compare'
        )
    rows = []
    for left, right in pairs:
        speed, low, high = ratio(left.seconds, right.seconds)
        verdict = 'faster' if low > 1 else 'slower' if high < 1 else 'no clear difference'
        kernels = left.kernel if left.kernel == right.kernel else f'{left.kernel} → {right.kernel}'
        times = [units.digits(1e3 * case.derived['seconds']['median']) for case in (left, right)]
        rows.append([left.name, kernels, *times, f'{speed:.3f} [{low:.3f}, {high:.3f}]', verdict])
    if rows:
        header = ['case', 'kernel', 'A ms', 'B ms', 'speed of B / A [95%]', 'B is']
        lines += ['', tables.grid(header, rows), '']
        lines.append('Speed of B / A: median seconds of A over those of B, with the bootstrap 95% interval.')
    else:
        lines += ['', 'No case is in both.']
    for name, cases in (('A', only_a), ('B', only_b)):
        for case in cases:
            if (case.name, case.backend) in nowhere:
                continue
            why = f' (not measured: {case.unavailable})' if case.unavailable else ''
            lines.append(f'- only in {name}: {" ".join(filter(None, (case.name, case.backend)))}{why}')
    lines += [f'- measured in neither: {name} {backend}' for name, backend in sorted(nowhere)]
    return '\n'.join(lines)


def match(a: Sequence[Case], b: Sequence[Case]) -> tuple[list[tuple[Case, Case]], list[Case], list[Case]]:
    """Pairs of measured cases, and what has no partner in the other: (pairs, only in a, only in b)."""
    left, right = list(a), list(b)
    pairs = []
    for key in (lambda c: (c.kind, c.name, c.backend), lambda c: (c.kind, c.name)):
        for case in [c for c in left if c.seconds]:
            there = [c for c in right if c.seconds and key(c) == key(case)]
            rivals = [c for c in left if c.seconds and key(c) == key(case)]
            if len(there) == 1 and len(rivals) == 1:
                pairs.append((case, there[0]))
                left.remove(case)
                right.remove(there[0])
    order = {id(case): i for i, case in enumerate(a)}
    return sorted(pairs, key=lambda pair: order[id(pair[0])]), left, right
