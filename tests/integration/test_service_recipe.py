"""What docs/integrations.md shows for other frameworks, as it stands there."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

DOCUMENT = (
    (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8").split("## Any framework")[1]
)
ADDRESS = "http://127.0.0.1:8700"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def test_the_recipe_works_as_documented(start_service, tmp_path):
    _, url = start_service(tmp_path)
    script = "\n".join(blocks("bash")).replace(ADDRESS, url).replace("curl ", "curl --silent --fail-with-body ")
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    *_, observed = [json.loads(each) for each in re.findall(r"\{.*?\}(?=\{|$)", done.stdout.replace("\n", ""))]
    assert {"beliefs", "version", "is_repeat"} == observed.keys()
    shown = [json.loads(line.removeprefix("# ")) for line in script.splitlines() if line.startswith("# {")]
    assert shown[1] == observed
    with httpx.Client(base_url=url) as client:
        answer = client.post("/v1/runs/mine/select", json={"step": 1, "num_prompts": 2}).json()
        assert answer.keys() == shown[0].keys()

    (tmp_path / "recipe.py").write_text(blocks("python")[0].replace(ADDRESS, url), encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "recipe.py"))
    rows = names["next_rows"](2, 2)
    assert len(rows) == 2
    names["report"](2, {f"p{row}": [True, False] for row in rows})
    with httpx.Client(base_url=url) as client:
        assert client.get("/v1/runs/mine").json()["version"] == 4
