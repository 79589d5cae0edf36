"""The failures a command reports in one line, and the exit code that goes with each."""


class UserError(Exception):
    """Something the user typed, pointed at or asked for is wrong. One line: what, where, what to do. Exit code 2."""

    exit_code = 2


class MachineError(Exception):
    """The machine or the run failed: a full disk, a dead process, a loss that will not stay finite. Exit code 1."""

    exit_code = 1


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved. Exit code 128 + signal, as a shell reports it."""

    def __init__(self, signal_number: int, outcome: str = 'the same command goes on from here'):
        super().__init__(f'stopped by signal {signal_number}; {outcome}')
        self.exit_code = 128 + signal_number


def first_line(error: BaseException) -> str:
    """What an exception says, cut to one line."""
    return str(error).strip().split('\n')[0][:400]
