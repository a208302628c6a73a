"""A card is read by the hub's own reader, and text of a run folder stays text."""

from __future__ import annotations

import re

import yaml
from huggingface_hub import DatasetCard, ModelCard

from insight_rl.hub.card import model_card, records_card
from insight_rl.hub.facts import read_facts
from insight_rl.hub.run_files import RunFiles
from tests.unit.hub.conftest import MIXTURE


def card_of(run, **more) -> str:
    given = {"repo": "user/name", "model": "the model", "license_name": None, "num_parameters": 7} | more
    return model_card(read_facts(RunFiles(run), step=None), **given)


def test_the_header_says_where_the_model_comes_from(make_run):
    card = ModelCard(card_of(make_run(*MIXTURE)))
    assert card.data.base_model == "Qwen/Qwen3-0.6B"
    assert card.data.datasets == ["openai/gsm8k", "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500"]
    assert card.data.pipeline_tag == "text-generation" and card.data.license is None
    assert {"grpo", "lora"} < set(card.data.tags)


def test_results_budget_and_command_are_in_it(make_run):
    card = card_of(make_run())
    assert "| before training | 0 | 25.0 % | 14.2 % to 40.2 % | 40 | 4 |" in card
    assert "Change: +25.0 points, 95 % interval +12.5 to +37.5 (paired bootstrap" in card
    assert "- tokens of those: 9,000" in card and "- device seconds: 62 " in card
    assert "```bash\ninsight-rl train experiment=quickstart\n```" in card
    assert "torch `2.7.0`" in card


def test_the_records_card_names_two_tables(make_run):
    facts = read_facts(RunFiles(make_run()), step=None)
    card = DatasetCard(records_card(facts, repo="user/name-records", num_decisions=4, num_prompts=3))
    assert [each["config_name"] for each in card.data.configs] == ["decisions", "beliefs"]


def test_text_of_a_run_folder_stays_text(make_run):
    run = make_run()
    config = yaml.safe_load((run / "config.yaml").read_text())
    evil = "</td><script>alert(1)</script> `x` | [a](javascript:b)\n---\nlicense: mit\n```\n# Heading"
    config["selector"]["extra"] = evil
    config |= {"selector_name": evil, "task_name": evil, "seed": evil}
    config["model"]["path"] = f"/x/{evil}"
    config["task"]["train_hub"] = {"name": "a/b](evil)", "split": evil}
    config["task"]["test_hub"] = {"name": "a/b", "split": evil}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    card = card_of(run, model=evil)
    assert set(ModelCard(card).data.to_dict()) == {"library_name", "pipeline_tag", "tags", "datasets"}
    outside = re.sub(r"(?s)^```+\w*\n.*?^```+$|`[^`\n]*`", "", card, flags=re.MULTILINE)
    assert "<script" not in outside.replace("\\<", "") and "[a](" not in outside
    assert [line for line in card.splitlines() if line.startswith("# ")] == ["# name"]
