"""What commands print."""

import io
import sys

import pytest

from musicfm_hf.cli.main import main


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "F\u00fcr Elise \u6771\u4eac \\udce9"),
        ("latin-1", "F\u00fcr Elise \\u6771\\u4eac \\udce9"),
        ("ascii", "F\\xfcr Elise \\u6771\\u4eac \\udce9"),
    ],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_names_are_printed_as_the_terminal_can(monkeypatch, stream, encoding, expected):
    output = io.BytesIO()
    monkeypatch.setattr(sys, stream, io.TextIOWrapper(output, encoding=encoding, errors="strict"))
    main(["--version"])
    print("F\u00fcr Elise \u6771\u4eac \udce9", file=getattr(sys, stream), flush=True)
    assert output.getvalue().decode(encoding).splitlines()[-1] == expected


def test_other_handling_of_unprintable_characters_is_kept(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace"))
    main(["--version"])
    assert sys.stdout.errors == "replace"
