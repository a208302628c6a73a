import pytest

from insight_rl.cli.settings import read_settings
from insight_rl.errors import UsageError


def test_the_first_sign_of_equality_divides():
    assert read_settings(["run_dir=a=b", "step=3"], ("run_dir", "step")) == {"run_dir": "a=b", "step": "3"}


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("run_dri=a", "did you mean run_dir=...?"),
        ("run_dir", "did you mean"),
        ("x=1", "it takes run_dir=..., step=..."),
    ],
)
def test_other_words_are_named_with_a_hint(word, hint):
    with pytest.raises(UsageError) as raised:
        read_settings([word], ("run_dir", "step"))
    assert str(raised.value).startswith(f"{word}: there is no such setting; ") and hint in str(raised.value)
