"""The command, and ``python -m cellwright``: how it ends. Ctrl-C is heeded while it is still loading, too."""

import io
import logging
import os
import sys
from collections.abc import Sequence

from cellwright.cli.interrupts import CANCELLED, INTERRUPTED, heeded_interrupts
from cellwright.core.errors import CellwrightError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv`` when not given) and exit; errors a user can mend are one line."""
    if arguments is None:  # typer would expand patterns, too, on Windows, also those that flags take
        arguments = [os.path.expanduser(word) for word in sys.argv[1:]]
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file may take the characters of one language alone
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its complaints come as ReadError
    try:
        with heeded_interrupts():
            from cellwright.cli.app import app  # takes a moment
        app(args=arguments)
    except KeyboardInterrupt:
        sys.stderr.write(f"{CANCELLED}\n")
        sys.exit(INTERRUPTED)
    except CellwrightError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except OSError as error:  # a name that the system refuses, say, or a disk
        where = f" at {error.filename}" if error.filename else ""
        sys.stderr.write(f"error: {error.strerror or error}{where}. Choose another file or folder.\n")
        sys.exit(1)
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer says nothing
            sys.stderr.write(f"{CANCELLED}\n")
        raise


if __name__ == "__main__":
    main()
