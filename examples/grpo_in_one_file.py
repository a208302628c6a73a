"""GRPO with INSIGHT's data selection, in one file to read from top to bottom.

    python examples/grpo_in_one_file.py --num-steps 30

It trains the bundled tiny model on Countdown: "3,7,12=24:" asks for an expression of 3, 7 and 12 whose value is 24.
It is the algorithm of insight_rl/trainer.py with the settings of `insight-rl train experiment=quickstart`, without
checkpoints, evaluation, other models and other processes. Both draw the same random numbers, so both select the same
prompts for the same seed (tests/integration/test_one_file_example.py).

Sources: GRPO, arXiv 2402.03300; INSIGHT, arXiv 2603.01907. Suffixes of containers: P prompts, G rollouts of a prompt,
A rollouts that are still being decoded, L positions of a padded row, V vocabulary.
"""

import argparse
import ast
import hashlib
import json
import re
from fractions import Fraction
from operator import add, mul, neg, pos, sub, truediv
from pathlib import Path

import numpy as np
import torch
from scipy.special import betaln, gammaln, psi
from transformers import AutoModelForCausalLM, AutoTokenizer

DATA = Path(__file__).parents[1] / "data"
K, MAX_TOKENS = 8, 24  # rollouts of each prompt, tokens of the longest completion
CANDIDATES_PER_PROMPT = 16
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-4, 0.1, 1.0
CLIP, IMPORTANCE_CAP = 0.2, 2.0


def derive_seed(seed, *names):
    """A seed for one purpose; it does not depend on what was drawn before. As in insight_rl/seeding.py."""
    message = "\x1f".join(map(str, (seed, *names))).encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=4).digest(), "big")


# 1. Selection: a Beta belief about the success rate of every prompt, and what K more rollouts would tell about it.
def mutual_information(alpha, beta):
    """Between phi ~ Beta(alpha, beta) and the rewards of K rollouts, in nats: H(R_1..K) - K E[H(R | phi)]."""
    a, b, s = alpha[:, None], beta[:, None], np.arange(K + 1)
    log_orders = gammaln(K + 1) - gammaln(s + 1) - gammaln(K - s + 1)  # in which s successes can come
    log_chance = betaln(a + s, b + K - s) - betaln(a, b)  # of each such order
    entropy = -(np.exp(log_orders + log_chance) * log_chance).sum(axis=1)
    entropy_given_rate = psi(alpha + beta + 1) - (alpha * psi(alpha + 1) + beta * psi(beta + 1)) / (alpha + beta)
    return entropy - K * entropy_given_rate


def insight_score(alpha, beta, mu=0.3, eta=3.0):
    """Difficulty weight times mutual information: high for prompts that are learnable and little known."""
    rate = alpha / (alpha + beta)
    return rate * (1 - rate) * np.exp(-eta * (rate - mu) ** 2) * mutual_information(alpha, beta)


def select(alpha, beta, num_prompts, rng):
    """Indices of the prompts to roll out: draw candidates uniformly, score their beliefs, take the best, best first."""
    candidates = rng.choice(len(alpha), min(CANDIDATES_PER_PROMPT * num_prompts, len(alpha)), replace=False)
    scores = insight_score(alpha[candidates], beta[candidates])
    best = np.arange(len(scores))
    if num_prompts < len(scores):  # the candidates are in random order, so equal scores are taken at random
        best = np.argpartition(scores, len(scores) - num_prompts)[-num_prompts:]
    return candidates[best[np.argsort(-scores[best], kind="stable")]]


# 2. Rollouts: K completions of each prompt; a prompt is encoded once.
@torch.no_grad()
def roll_out(model, tokenizer, texts_P, generator):
    """For each prompt, K pairs of token ids and their log-probs; a finished completion ends in the end-of-text id."""
    inputs = tokenizer(texts_P, padding=True, padding_side="left", return_tensors="pt")
    ids_PL, mask_PL = inputs["input_ids"], inputs["attention_mask"]
    positions_PL = (mask_PL.cumsum(1) - 1).clamp(min=0)
    output = model(ids_PL, attention_mask=mask_PL, position_ids=positions_PL, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(K)
    logits_AV, mask_AL = (x.repeat_interleave(K, dim=0) for x in (output.logits[:, -1], mask_PL))
    rows_A = torch.arange(len(texts_P) * K)
    tokens, logprobs = [[] for _ in rows_A], [[] for _ in rows_A]
    has_ended = torch.zeros(len(rows_A), dtype=torch.bool)
    for _ in range(MAX_TOKENS):
        logprobs_AV = logits_AV.log_softmax(-1)
        tokens_A = torch.multinomial(logprobs_AV.exp(), 1, generator=generator).squeeze(1)
        logprobs_A = logprobs_AV.gather(1, tokens_A[:, None]).squeeze(1)
        for row, token, logprob in zip(rows_A.tolist(), tokens_A.tolist(), logprobs_A.tolist(), strict=True):
            if not has_ended[row]:
                tokens[row].append(token)
                logprobs[row].append(logprob)
        has_ended[rows_A[tokens_A == tokenizer.eos_token_id]] = True
        going = (~has_ended[rows_A]).nonzero().squeeze(1)
        if len(going) == 0:
            break
        if len(going) <= 0.75 * len(rows_A):  # drop the finished rollouts once that saves a quarter of the work
            cache.batch_select_indices(going)
            rows_A, mask_AL, tokens_A = rows_A[going], mask_AL[going], tokens_A[going]
        mask_AL = torch.cat([mask_AL, mask_AL.new_ones(len(rows_A), 1)], dim=1)
        positions = mask_AL.sum(1, keepdim=True) - 1
        output = model(tokens_A[:, None], attention_mask=mask_AL, position_ids=positions, past_key_values=cache)
        logits_AV = output.logits[:, -1]
    completions = list(zip(tokens, logprobs, strict=True))
    return [completions[at : at + K] for at in range(0, len(completions), K)]


# 3. Rewards: the verdict feeds the belief, the value feeds the policy.

OPERATIONS = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: truediv, ast.UAdd: pos, ast.USub: neg}
ALLOWED = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, *OPERATIONS)


def value_of(node):
    """Exact value of a syntax tree of numbers and operations. The text is only parsed, never run."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    operands = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    return OPERATIONS[type(node.op)](*map(value_of, operands))


def judge(text, numbers, target):
    """Verdict and value: 1 for a right expression, 0.1 for a wrong but well-formed one, 0 for anything else."""
    if len(text) > 100 or not re.fullmatch(r"[0-9+\-*/() ]+", text) or re.search(r"\b0[0-9]|[0-9]{10}", text):
        return False, 0.0
    try:
        tree = ast.parse(text.strip(), mode="eval")
        if not all(isinstance(node, ALLOWED) for node in ast.walk(tree)):
            return False, 0.0
        is_right = value_of(tree.body) == target and sorted(map(int, re.findall("[0-9]+", text))) == sorted(numbers)
    except SyntaxError:
        return False, 0.0
    except ZeroDivisionError:
        is_right = False
    return is_right, 1.0 if is_right else 0.1


# 4. Learning: advantages within each group, then one AdamW step.
def advantages(values_G):
    """How much better than its siblings each rollout was; zero where all are equal, which then teach nothing."""
    if np.ptp(values_G) < 1e-6:
        return np.zeros(len(values_G))
    return (values_G - values_G.mean()) / (values_G.std(ddof=1) + 1e-4)


def learn(model, optimizer, sequences):
    """One update from (prompt ids, token ids, rollout log-probs, advantage) of every rollout of the step."""
    trained = [sequence for sequence in sequences if sequence[-1] != 0] or sequences[:1]  # others have no gradient
    longest = max(len(prompt) + len(tokens) for prompt, tokens, _, _ in trained)
    ids_BL = torch.tensor([p + t + [0] * (longest - len(p) - len(t)) for p, t, _, _ in trained])
    logprobs_BLV = model(ids_BL[:, :-1], use_cache=False).logits.log_softmax(-1)
    logprobs_BL = logprobs_BLV.gather(-1, ids_BL[:, 1:, None]).squeeze(-1)  # of each token after the first
    loss = 0.0
    for logprobs_L, (prompt, tokens, rollout_logprobs, advantage) in zip(logprobs_BL, trained, strict=True):
        now = logprobs_L[len(prompt) - 1 : len(prompt) - 1 + len(tokens)]
        old = now.detach()  # the policy before this update: the same, as there is one update a step
        ratio = (now - old).exp()
        objective = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
        importance = (old - torch.tensor(rollout_logprobs)).exp().clamp(max=IMPORTANCE_CAP)
        loss = loss - (objective * importance).mean() / len(sequences)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad()


# 5. The loop: select, roll out, judge, observe, learn.
def train(problems_file, *, num_steps, prompts_per_step, seed):
    """Yields the prompts selected in each step, as positions in the file, and the success rate of their rollouts."""
    problems = [json.loads(line) for line in Path(problems_file).read_text().splitlines()]
    texts = [f"{','.join(map(str, problem['numbers']))}={problem['target']}:" for problem in problems]
    tokenizer = AutoTokenizer.from_pretrained(DATA / "tiny_countdown")
    model = AutoModelForCausalLM.from_pretrained(DATA / "tiny_countdown", dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(derive_seed(derive_seed(seed, "selector"), "selector"))
    alpha, beta = np.ones(len(problems)), np.ones(len(problems))  # Beta(1, 1): all success rates are as likely
    for step in range(1, num_steps + 1):
        chosen = select(alpha, beta, prompts_per_step, rng)
        by_length = sorted(chosen, key=lambda index: len(tokenizer(texts[index])["input_ids"]))
        generator = torch.Generator().manual_seed(derive_seed(derive_seed(seed, "rollout", step, 1), "batch", 0))
        completions_P_G = roll_out(model, tokenizer, [texts[index] for index in by_length], generator)
        sequences, num_successes = [], 0
        for index, completions_G in zip(by_length, completions_P_G, strict=True):
            texts_G = tokenizer.batch_decode([tokens for tokens, _ in completions_G], skip_special_tokens=True)
            successes_G, values_G = np.array([judge(text, **problems[index]) for text in texts_G]).T
            alpha[index] += successes_G.sum()
            beta[index] += K - successes_G.sum()
            num_successes += successes_G.sum()
            prompt_ids = tokenizer(texts[index])["input_ids"]
            for (tokens, logprobs), advantage in zip(completions_G, advantages(values_G), strict=True):
                sequences.append((prompt_ids, tokens, logprobs, advantage))
        learn(model, optimizer, sequences)
        yield chosen.tolist(), num_successes / len(sequences)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GRPO with INSIGHT on Countdown")
    for name, default in (("--num-steps", 150), ("--prompts-per-step", 64), ("--seed", 0)):
        parser.add_argument(name, type=int, default=default)
    steps = train(DATA / "countdown" / "train.jsonl", **vars(parser.parse_args()))
    for step, (_, success_rate) in enumerate(steps, start=1):
        print(f"step {step}: {success_rate:.1%} of the rollouts are right")
