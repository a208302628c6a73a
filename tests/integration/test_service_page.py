"""The service's page in a real headless Chromium, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess

import httpx
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def url(start_service, tmp_path_factory):
    _, url = start_service(tmp_path_factory.mktemp("service"))
    with httpx.Client(base_url=url) as client:
        ids = [f"<b>{i}</b>" for i in range(200)]  # which must come out as text
        client.put("/v1/pools/pool/chunks/0", json={"ids": ids}).raise_for_status()
        client.post("/v1/pools/pool/seal", json={"num_prompts": 200}).raise_for_status()
        body = {"run": "shown", "pool": "pool", "num_rollouts": 8, "seed": 0}
        client.post("/v1/runs", json=body).raise_for_status()
        for step in range(1, 21):
            chosen = client.post("/v1/runs/shown/select", json={"step": step, "num_prompts": 16}).json()["ids"]
            seen = [{"id": each, "num_judged": 8, "num_successes": len(each) * step % 9} for each in chosen]
            client.post("/v1/runs/shown/observe", json={"step": step, "observations": seen}).raise_for_status()
        client.post("/v1/runs/shown/select", json={"step": 21, "num_prompts": 16}).raise_for_status()
        client.post("/v1/runs/shown/report", json={"step": 20, "accuracy": 0.4}).raise_for_status()
    return url


def chromium(tmp_path, url, *arguments):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command += ["--virtual-time-budget=5000", "--enable-logging=stderr", *arguments, f"{url}/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_page_shows_beliefs_picks_and_calibration(url, tmp_path):
    done = chromium(tmp_path, url, "--dump-dom")
    page = done.stdout
    assert 'data-ready="yes"' in page, done.stderr
    assert "CONSOLE" not in done.stderr  # neither errors of the script nor blocked resources
    view = httpx.get(f"{url}/v1/runs/shown/live").json()
    counts = view["metrics"]["selector/belief_histogram"]["counts"]
    assert len(re.findall(r'<rect class="bar"', page)) == len(counts)
    for count in filter(None, counts):
        assert f": {count:,} prompts</title>" in page
    assert len(re.findall(r'<circle class="dot"', page)) == len(view["reliability"]) > 1
    rows = re.findall(r'<td class="id" title="[^"]*">([^<]*)</td>', page)
    assert rows == [pick["id"].replace("<", "&lt;").replace(">", "&gt;") for pick in view["picks"]]
    assert "Selection of step 21" in page
    (informative,) = re.findall(r'<polyline class="line" points="([^"]*)"', page)
    assert len(informative.split()) == len(view["history"]) == 20
    assert "40.0%" in page  # the accuracy reported
    for title in ("training step", "mean of the belief", "success rate forecast"):
        assert f">{title}</text>" in page
    assert 'option value="shown"' in page


def test_the_picture_is_drawn(url, tmp_path):
    from matplotlib.image import imread

    chromium(tmp_path, url, "--window-size=1200,900", f"--screenshot={tmp_path}/page.png")
    pixels = imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape[:2] == (900, 1200)
    blue = (pixels[..., 2] - pixels[..., 0] > 0.3).sum()  # the bars
    orange = (pixels[..., 0] - pixels[..., 2] > 0.4).sum()  # the dots
    assert blue > 1000
    assert orange > 100


def test_the_page_asks_for_the_token_first(start_service, tmp_path):
    (tmp_path / "token").write_text("a-token-of-24-characters", encoding="utf-8")
    _, url = start_service(tmp_path / "data", "--token-file", str(tmp_path / "token"))
    page = chromium(tmp_path, url, "--dump-dom").stdout
    assert re.search(r'<form id="login">', page)
    assert "Authorization: Bearer" in page
