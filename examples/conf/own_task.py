"""A task: Countdown with two numbers, such as "3,7=21:"."""

import random

from insight_rl.errors import check
from insight_rl.task.base import PromptEncoder
from insight_rl.types import Prompt


class TwoNumbers:
    name = "two_numbers"

    def __init__(self, *, max_number: int, num_test: int) -> None:
        check(2 <= max_number <= 100, "task.max_number", max_number, "must be from 2 to 100")
        check(1 <= num_test < max_number**2, "task.num_test", num_test, "must leave problems to train on")
        self.max_number = max_number
        self.num_test = num_test

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return self._prompts(encoder)[self.num_test :]

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return self._prompts(encoder)[: self.num_test]

    def _prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        numbers = range(1, self.max_number + 1)
        problems = sorted({(a, b, target) for a in numbers for b in numbers if a <= b for target in (a + b, a * b)})
        random.Random(0).shuffle(problems)
        prompts = []
        for a, b, target in problems:
            text, token_ids = encoder.encode(f"{a},{b}={target}:")
            answer = {"numbers": [a, b], "target": target}
            prompts.append(
                Prompt(id=f"{self.name}/{text}", task=self.name, text=text, token_ids=token_ids, answer=answer)
            )
        return prompts
