"""`python -m llm COMMAND`."""

import sys

from llm.command_line import main

sys.exit(main(sys.argv[1:]))
