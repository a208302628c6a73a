from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_features.py"
SPEC = importlib.util.spec_from_file_location("check_features", SCRIPT)
check_features = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_features)


def test_a_topic_that_decides_is_found_and_the_rest_is_not_made_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check_features, "RIDGE", 1.0)
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 2, 300)
    texts = [f"{'add' if topic else 'prove'} {number}" for number, topic in enumerate(topics)]
    rows = {"question": [*texts, texts[0]], "answer": ["1"] * 301, "pass_rate": [*np.where(topics, 0.5, 0.0), 0.25]}
    pq.write_table(pa.table(rows), tmp_path / "rates.parquet")
    check_features.main([str(tmp_path / "rates.parquet"), "--train", "40", "--online"])
    printed = capsys.readouterr().out
    assert printed.startswith("300 problems")  # the repeat is dropped, the first counts
    found = {line.split()[0]: [float(n) for n in line.split()[1:]] for line in printed.splitlines()[2:6]}
    assert found["text"][1] > 0.9 and found["answer"][1] < 0.01
    assert found["text"][3] == pytest.approx(1 - 2 * 0.5**8, abs=0.01)  # the best are the learnable ones
    online = {line[:25].strip(): float(line.split()[-1]) for line in printed.splitlines()[-4:]}
    assert online["features"] > online["features, texts shuffled"]
    assert float(re.search(r"learnt from 40: R2 (\S+)", printed)[1]) > 0.5


def test_the_roc_area_is_the_chance_that_a_positive_ranks_higher():
    positive, score = np.array([True, False, True, False, False]), np.array([3.0, 1.0, 2.0, 2.0, 0.0])
    pairs = [(p > n) + 0.5 * (p == n) for p in score[positive] for n in score[~positive]]
    assert check_features.roc_area(positive, score) == pytest.approx(np.mean(pairs))
