"""The page at /, in a real browser."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from fastattn.serve import app as app_module
from fastattn.serve.app import application
from fastattn.serve.models import Served
from fastattn.serve.service import Service
from tests.serve.running import running

pytestmark = pytest.mark.jit

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
TEXTS = ["The cat sat.", "A dog <b>on</b> a mat", "on a mat"]
# What a user would do: give the key, choose a model, write texts, press the button.
USE = """<script>
setTimeout(async () => {
  at("key").value = KEY;
  await list().catch(() => {});
  at("model").value = NAME;
  at("model").dispatchEvent(new Event("change"));
  at("texts").value = TEXTS;
  at("form").requestSubmit();
}, 1000);
</script></body>"""


def shown(port: int, profile: Path) -> str:
    """Return the page as the browser has it in the end."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=8000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


@pytest.mark.skipif(shutil.which(BROWSER) is None, reason="no Chromium")
@pytest.mark.parametrize(("name", "key"), [("embedder", "secret"), ("reranker", "secret"), ("sparse", "secret"), ("embedder", "x")])
def test_a_model_is_tried(name: str, key: str, models: list[Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use = USE
    for word, value in (("NAME", name), ("TEXTS", "\\n".join(TEXTS)), ("KEY", key)):
        use = use.replace(word, f'"{value}"')
    page = app_module._PAGE.read_text("utf-8").replace("</body>", use)
    (tmp_path / "page.html").write_text(page, "utf-8")
    monkeypatch.setattr(app_module, "_PAGE", tmp_path / "page.html")
    with running(application(Service(models), "secret")) as (port, _):
        found = shown(port, tmp_path / "profile")
    said = re.search(r'<p id="said"[^>]*>(.*?)</p>', found)
    assert said is not None
    if key == "x":
        assert 'class="error"' in said[0] and "its key is not that of the service" in said[1]
        assert '<div id="lock">' in found
        return
    assert 'class="error"' not in said[0] and said[1].endswith(" ms")
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found)]
    if name == "embedder":
        rows = models[0].model.encode(TEXTS, normalize_embeddings=True)
        assert cells[0] == f"1  {TEXTS[0]}" and cells[4] == f"2  {TEXTS[1]}"
        assert [float(cells[i]) for i in (1, 2, 3)] == pytest.approx((rows @ rows[0]).tolist(), abs=1e-3)
    elif name == "reranker":
        assert sorted(cells[::2]) == sorted(TEXTS) and np.all(np.diff([float(cell) for cell in cells[1::2]]) <= 0)
    else:
        assert cells[::2] == TEXTS and all(re.match(r"\d+: \d\.\d\d", cell) for cell in cells[1::2])
