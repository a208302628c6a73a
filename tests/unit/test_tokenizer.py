"""Held equal to transformers' own tokenizer classes, which the runs do without."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from insight_rl.errors import UsageError
from insight_rl.paths import data_dir
from insight_rl.tokenizer import ModelTokenizer

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Make 24 from 3, 7 and 12."}]
WORDS = [
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "Be",
    "Make",
    "from",
    "and",
    "3",
    "7",
    "12",
    "24",
]


@pytest.fixture
def chat_model(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 1]}))
    return tmp_path


def test_a_chat_is_encoded_as_transformers_does(chat_model):
    text, token_ids = ModelTokenizer(chat_model).encode(CHAT)
    reference = AutoTokenizer.from_pretrained(chat_model)
    assert text == reference.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    expected = reference.apply_chat_template(CHAT, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert list(token_ids) == expected["input_ids"]


def test_plain_text_gets_the_special_tokens_that_transformers_adds(chat_model):
    _, token_ids = ModelTokenizer(chat_model).encode("Make 24 from 3")
    assert list(token_ids) == AutoTokenizer.from_pretrained(chat_model)("Make 24 from 3")["input_ids"]
    assert token_ids[0] == 0


def test_every_end_of_sequence_id_counts(chat_model):
    assert ModelTokenizer(chat_model).eos_token_ids == (5, 1)


def test_the_bundled_model_round_trips():
    folder = data_dir() / "tiny_countdown"
    tokenizer, reference = ModelTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    text, token_ids = tokenizer.encode("3,7,12=24:")
    assert list(token_ids) == reference("3,7,12=24:")["input_ids"]
    assert text == reference.decode(token_ids)
    ended = np.array([*token_ids, *tokenizer.eos_token_ids])
    assert tokenizer.decode_batch([ended[: len(token_ids)], ended]) == [text, text]


def test_a_chat_without_a_template_says_what_to_do(chat_model):
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (chat_model / name).unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"no chat template.*task\.style=bare"):
        ModelTokenizer(chat_model).encode(CHAT)


def test_a_template_that_refuses_the_roles_says_so(chat_model):
    (chat_model / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(UsageError, match=r"no system role"):
        ModelTokenizer(chat_model).encode(CHAT)


def test_a_folder_without_tokenizer_or_eos_is_refused(tmp_path, chat_model):
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        ModelTokenizer(tmp_path / "none")
    for name in ("generation_config.json", "tokenizer_config.json"):
        (chat_model / name).unlink()
    with pytest.raises(UsageError, match="no eos_token_id"):
        ModelTokenizer(chat_model)


PIECES = [
    *WORDS,
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_<|im_end|>end|>",
    "<|im_",
    "end|>",
    "\ufdd0",
    "\ufdd1",
    " ",
]


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_of_a_row_becomes_a_control_token(chat_model, pieces):
    tokenizer = ModelTokenizer(chat_model)
    controls = range(6)
    content = "".join(pieces)
    clean = tokenizer.encode([{"role": "user", "content": "Make"}])[1]
    text, token_ids = tokenizer.encode([{"role": "user", "content": content}])
    assert text == f"<s><|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    # Text outside the vocabulary is <unk>, which here is one of the special tokens.
    counts = [[ids.count(control) for control in controls if WORDS[control] != "<unk>"] for ids in (token_ids, clean)]
    assert counts[0] == counts[1]
    _, bare_ids = tokenizer.encode(content)
    assert [i for i in bare_ids if i in controls and WORDS[i] != "<unk>"] == [0]


def test_text_that_is_no_unicode_is_named(chat_model):
    with pytest.raises(UsageError, match=r"prompt 'Make .*ud800.*' *: not Unicode text .*mend the row"):
        ModelTokenizer(chat_model).encode("Make \ud800")


def test_a_tokenizer_of_another_model_is_told(chat_model):
    (chat_model / "config.json").write_text(json.dumps({"vocab_size": 12, "eos_token_id": 1}))
    with pytest.raises(UsageError, match=r"makes token 13, but the model has 12 tokens.*different models"):
        ModelTokenizer(chat_model).encode("Make 24")


def test_a_file_that_is_no_tokenizer_is_told(chat_model):
    (chat_model / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json: not a tokenizer"):
        ModelTokenizer(chat_model)
