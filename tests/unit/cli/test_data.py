"""The help of each action is its own."""

import pytest

from insight_rl.cli.main import main


@pytest.mark.parametrize(
    ("action", "own", "other"), [("inspect", "--samples", "--format"), ("prepare", "--format", "--samples")]
)
def test_each_action_explains_itself(action, own, other, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", action, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert text.startswith(f"usage: insight-rl data {action} ")
    assert own in text and other not in text.split("examples:")[0]


def test_the_actions_are_listed(capsys):
    assert main(["data", "--help"]) == 0
    assert "inspect" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["inspct"]])
def test_an_unknown_action_names_those_there_are(arguments, capsys):
    assert main(["data", *arguments]) == 2
    assert "take one of inspect, prepare" in capsys.readouterr().err
