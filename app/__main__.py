"""Where does ``python -m app`` begin?"""

import signal
import sys

# Ctrl-C while modules are loaded ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from app.cli import run  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run())
