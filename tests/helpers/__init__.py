"""Code that several test modules share. `pytest` rewrites its assertions, so that they report what they compared."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.runs")
