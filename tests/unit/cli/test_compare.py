"""``insight-rl compare``: which words do what, and the exit codes."""

import json

import pytest

from insight_rl.cli import compare
from insight_rl.compare import comparison, report
from insight_rl.errors import UsageError


@pytest.fixture
def finished(monkeypatch, tmp_path):
    """Two folders of finished comparisons, the second with a run that failed."""
    for name, failed in (("a", {}), ("b", {"insight_seed1": "the gradient norm is nan"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(json.dumps({"failed": failed}))
    monkeypatch.setattr(comparison, "finish", lambda folder, say: [folder / "curves.csv", folder / "report.html"])
    monkeypatch.setattr(report, "analyse_folders", lambda folders: folders)
    monkeypatch.setattr(report, "write_report", lambda folders: [folders[0] / "report.html"])
    return tmp_path


def test_the_report_again_and_a_failed_run_in_the_exit_code(finished, capsys):
    assert compare.main([f"report={finished}/a"]) == 0
    assert compare.main([f"report={finished}/b"]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [f"{finished}/a/curves.csv", f"{finished}/a/report.html"]


def test_several_comparisons_on_one_page(finished, capsys):
    assert compare.main([f"report={finished}/a,{finished}/b"]) == 1
    # Each file is named once.
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_what_does_not_go_together_is_refused(finished):
    with pytest.raises(UsageError, match=r"report=.*goes with no other key"):
        compare.main([f"report={finished}/a", "processes=2"])
    with pytest.raises(UsageError, match="choose a plan: compare=smoke"):
        compare.main([])
