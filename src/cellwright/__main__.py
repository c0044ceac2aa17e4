"""``python -m cellwright``."""

from cellwright.cli.main import main

if __name__ == "__main__":
    main()
