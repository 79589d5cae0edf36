"""`python -m llm.benchmark KIND`: the command `benchmark` on a machine that has jax, flax and optax and little else."""

import sys

from llm.benchmark.command_line import main
from llm.errors import MachineError, UserError

try:
    main(sys.argv[1:])
except (UserError, MachineError) as error:
    print('error:', *str(error).split(), file=sys.stderr)
    sys.exit(error.exit_code)
except OSError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
