import shlex

from cellwright.core.words import shell_line

WORDS = [
    "cellwright",
    "count",
    r"C:\my data\a.tif",
    "--channels",
    "0,2",
    "--keep",
    'class="a b"',
    "--min",
    "0.5",
]


def test_a_command_is_quoted_for_the_shells_of_windows():
    line = r'''cellwright count "C:\my data\a.tif" --channels "0,2" --keep "class=""a b""" --min 0.5'''
    assert shell_line(WORDS, on_windows=True) == line


def test_a_command_is_quoted_for_other_shells():
    assert shlex.split(shell_line(WORDS, on_windows=False)) == WORDS
