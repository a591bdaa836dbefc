"""The page in a real browser: its script runs without a fault, it asks for nothing, and it prints. Needs Chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.report import page
from bench.report.rows import groups
from tests import made

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr")  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
RECORDS = [
    made.record("single"),
    made.record("ddp", 2, speed=1.6),
    made.failed("ring", 2, "<img src=x onerror=alert(1)> </script>"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return page.write(groups(RECORDS), RECORDS, tmp_path / "page.html")


def chromium(path: Path, *flags: str, anchor: str = "") -> tuple[str, list[str]]:
    """(what it printed, what the page's console said)."""
    profile = path.parent / "profile"
    ended = subprocess.run(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *flags, path.as_uri() + anchor],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return ended.stdout, [line for line in ended.stderr.splitlines() if ":CONSOLE" in line]


def test_the_script_runs_and_the_console_stays_empty(path: Path) -> None:
    dom, console = chromium(path, "--dump-dom")
    assert console == []
    assert "Theme: system" in dom
    assert not re.search(r'class="copy"[^>]*hidden', dom)
    assert "<img" not in dom


def test_a_link_opens_its_row(path: Path) -> None:
    dom, _ = chromium(path, "--dump-dom", anchor="#g1-r2")
    assert re.findall(r'<details class="row" id="([^"]*)" open=""', dom) == ["g1-r2"]


def test_a_fault_would_be_seen(path: Path) -> None:
    path.write_text(path.read_text().replace('"use strict";', '"use strict"; nothing.at.all;'))
    assert "nothing is not defined" in chromium(path, "--dump-dom")[1][0]


def test_it_prints(path: Path) -> None:
    chromium(path, f"--print-to-pdf={path.with_suffix('.pdf')}")
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
