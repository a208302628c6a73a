"""Makes data/tiny_countdown: a 0.86M-parameter Llama that has seen enough Countdown solutions to be worth training.

    OMP_WAIT_POLICY=PASSIVE python scripts/warm_start.py --seed 0 --output data/tiny_countdown

Next-token training on generated solutions, the loss on the solution only: minutes on 2 cores. It stops early on
purpose, since reinforcement learning needs room to climb. No problem of data/countdown (train or test, in any order of
its numbers) is shown. Matrices learn by Muon (https://kellerjordan.github.io/posts/muon/): in one short trial each, the
loss after 100 steps was 0.87 against 1.10 with AdamW. The passes run in bfloat16, the weights stay float32.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from insight_rl.reward.countdown import judge_countdown
from insight_rl.task.countdown import bare_prompt
from insight_rl.task.countdown_problems import CountdownProblem, ProblemKey, random_problem, read_problems

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
ALPHABET = "0123456789+-*/()=,: "
MAX_LENGTH = 128
SHARES = {2: 0.15, 3: 0.4, 4: 0.45}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; decoding gives back the exact text."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path) -> None:
    """A fresh one (use leaves its padding behind), under the class name that transformers 4 and 5 both know."""
    make_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """4 layers, width 128, 4 heads of 32 (the smallest head size that vLLM's CPU attention takes)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        attn_implementation="eager",  # 1.7 to 1.9 times as fast as sdpa here (30 tokens, CPU)
    )
    return LlamaForCausalLM(config)


class Batches:
    """Batches of fresh problems: token ids (padded right, [B, T]) and labels (-100 on prompt and padding)."""

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        held_out: set[ProblemKey],
        max_number: int,
        max_target: int,
        seed: int,
    ) -> None:
        self.batch_size = batch_size
        self.held_out = held_out
        self.max_number = max_number
        self.max_target = max_target
        self.rng = random.Random(seed)
        self.index = tokenizer.get_vocab()

    def problem(self) -> tuple[CountdownProblem, str]:
        (num_numbers,) = self.rng.choices(list(SHARES), weights=list(SHARES.values()))
        while True:
            problem, solution = random_problem(
                self.rng,
                num_numbers=num_numbers,
                min_number=1,
                max_number=self.max_number,
                max_target=self.max_target,
            )
            if problem.key not in self.held_out:
                return problem, solution

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        ids_B, labels_B = [], []
        for _ in range(self.batch_size):
            problem, solution = self.problem()
            prompt_ids = [self.index[character] for character in bare_prompt(problem)]
            solution_ids = [*(self.index[character] for character in solution), self.index["<eos>"]]
            ids_B.append(torch.tensor(prompt_ids + solution_ids))
            labels_B.append(torch.tensor([-100] * len(prompt_ids) + solution_ids))
        return (
            pad_sequence(ids_B, batch_first=True, padding_value=self.index["<pad>"]),
            pad_sequence(labels_B, batch_first=True, padding_value=-100),
        )


@torch.inference_mode()
def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[CountdownProblem],
    *,
    temperature: float,
    num_samples: int,
) -> dict[str, float]:
    """Share of right answers (greedy where ``temperature`` is 0), overall and by how many numbers there are."""
    outcomes: dict[str, list[bool]] = {"all": []}
    inputs = tokenizer([bare_prompt(problem) for problem in problems], padding=True, return_tensors="pt")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    for _ in range(num_samples):
        output = model.generate(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=48, **sampling
        )
        texts = tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        for problem, text in zip(problems, texts, strict=True):
            is_correct = judge_countdown(text, problem.numbers, problem.target) == "correct"
            outcomes["all"].append(is_correct)
            outcomes.setdefault(f"{len(problem.numbers)}_numbers", []).append(is_correct)
    return {name: round(sum(hits) / len(hits), 4) for name, hits in sorted(outcomes.items())}


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed_tokens" in name]
    return [
        torch.optim.Muon(matrices, lr=0.03, momentum=0.95, weight_decay=0.01, ns_steps=4),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_factor(step: int, num_steps: int) -> float:
    """50 steps up, flat, and linearly to zero over the last 40 %."""
    return min(1.0, (step + 1) / 50, (num_steps - step) / (0.4 * num_steps))


def warm_start(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    train_problems = read_problems(args.data / "train.jsonl", key="--data")
    test_problems = read_problems(args.data / "test.jsonl", key="--data")
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    batches = Batches(
        tokenizer=tokenizer,
        batch_size=args.batch_size,
        held_out={problem.key for problem in [*train_problems, *test_problems]},
        max_number=args.max_number,
        max_target=args.max_target,
        seed=args.seed,
    )
    optimizers = make_optimizers(model)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, args.num_steps))
        for optimizer in optimizers
    ]
    args.output.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    started = time.monotonic()
    with (args.output / "warm_start_log.jsonl").open("w") as log:

        def record(**values: object) -> None:
            line = json.dumps({**values, "seconds": round(time.monotonic() - started, 1)})
            print(line, flush=True)
            log.write(line + "\n")

        record(settings=settings, num_parameters=sum(p.numel() for p in model.parameters()), torch=torch.__version__)
        for step in range(args.num_steps):
            input_ids, labels = batches.draw()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=input_ids, labels=labels).loss
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            if (step + 1) % 20 == 0:
                record(step=step + 1, loss=round(loss.item(), 4))
        model.eval()
        for temperature, num_samples in ((0.0, 1), (1.0, 8)):
            scores = accuracy(model, tokenizer, test_problems, temperature=temperature, num_samples=num_samples)
            record(temperature=temperature, num_samples=num_samples, test_accuracy=scores)
    model.save_pretrained(args.output)
    save_tokenizer(args.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--max-number", type=int, default=20)
    parser.add_argument("--max-target", type=int, default=100)
    parser.add_argument("--data", type=Path, default=Path("data/countdown"))
    parser.add_argument("--output", type=Path, default=Path("data/tiny_countdown"))
    warm_start(parser.parse_args())


if __name__ == "__main__":
    main()
