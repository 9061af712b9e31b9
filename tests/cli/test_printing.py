"""What commands print."""

import io
import sys

import pytest

from musicfm_hf.cli.flags import print_escaped


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "F\u00fcr Elise \u6771\u4eac \\udce9"),
        ("latin-1", "F\u00fcr Elise \\u6771\\u4eac \\udce9"),
        ("ascii", "F\\xfcr Elise \\u6771\\u4eac \\udce9"),
    ],
)
def test_names_are_printed_as_the_terminal_can(monkeypatch, encoding, expected):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    print_escaped("F\u00fcr Elise \u6771\u4eac \udce9")
    sys.stdout.flush()
    assert output.getvalue().decode(encoding) == expected + "\n"
