"""The site builds without a warning, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

pytest.importorskip("mkdocs", reason="pip install '.[docs]'")


@pytest.mark.slow
def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", text)
        assert not [address for address in loaded if "canonical" not in address], page
        assert "[<code>" not in text, f"a reference that is no link in {page}"
