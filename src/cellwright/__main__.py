"""The command, and ``python -m cellwright``. Ctrl-C ends it with a word while it is still loading, too."""

import sys

from cellwright.cli.interrupts import CANCELLED, INTERRUPTED, heeded_interrupts


def main() -> None:
    """Run the command line and exit."""
    try:
        with heeded_interrupts():
            from cellwright.cli.main import main as run  # takes a moment
        run()
    except KeyboardInterrupt:
        sys.stderr.write(f"{CANCELLED}\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
