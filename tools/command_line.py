"""The command line of a program whose help is its docstring."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter


def command_line(text: str | None) -> ArgumentParser:
    """Return a parser whose help begins with a text as it stands."""
    return ArgumentParser(description=text, formatter_class=RawDescriptionHelpFormatter)
