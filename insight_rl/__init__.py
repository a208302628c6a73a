"""insight_rl: GRPO training of reasoning models that picks the prompts that teach the model most."""

__version__ = "0.1.0"
