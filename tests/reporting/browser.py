"""A headless Chromium that opens one page offline and tells what it drew and what it complained of."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom"),
)

# Added to a copy of the page: writes what was drawn into the document, which --dump-dom prints.
PROBE = """
<script>
addEventListener("load", () => {
  const marks = "path, rect, circle, use, text, image";
  const figures = [...document.querySelectorAll("figure")].map(figure => {
    const box = figure.querySelector("svg").getBoundingClientRect();
    const boxes = [...figure.querySelectorAll(marks)].map(mark => mark.getBoundingClientRect());
    const drawn = boxes.filter(mark => mark.width + mark.height > 0);
    const outside = drawn.filter(mark => mark.right > box.right + 2 || mark.left < box.left - 2);
    return {title: figure.querySelector("h3").textContent, width: box.width, height: box.height, marks: drawn.length,
            outside: outside.length};
  });
  const page = {figures, width: document.documentElement.scrollWidth, window: innerWidth};
  const result = document.createElement("script");
  result.type = "application/json";
  result.id = "probe";
  result.textContent = JSON.stringify(page);
  document.body.append(result);
});
</script>
"""


@dataclass(frozen=True)
class Opened:
    """What the browser saw.

    Attributes:
        figures: Title, size, number of drawn marks, and marks outside its frame, of every figure.
        overflow: Pixels by which the page is wider than the window.
        complaints: Lines of the console.
    """

    figures: list[dict]
    overflow: int
    complaints: list[str]


def open_page(page: Path, folder: Path, width: int = 1200) -> Opened:
    """Opens a copy of `page` in `folder`; skips the test where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium, chromium-browser or google-chrome here: the page is not opened in a browser")
    copy = folder / "probed.html"
    copy.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1000", copy.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    probe = re.search(r'<script type="application/json" id="probe">(.*?)</script>', run.stdout, re.DOTALL)
    assert probe is not None, run.stderr
    seen = json.loads(probe[1])
    complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return Opened(seen["figures"], seen["width"] - seen["window"], complaints)
