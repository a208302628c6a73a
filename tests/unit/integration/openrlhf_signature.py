"""What insight_rl.integration.openrlhf uses of OpenRLHF: names, parameters and fields, not its code.

Read in OpenRLHF/OpenRLHF at commit 3c3be6234e0cb353e76bb8019947db9dfe99fca7 and in the wheel of 0.11.2:
openrlhf/trainer/ppo_trainer.py (prepare_datasets), openrlhf/datasets/prompts_dataset.py, openrlhf/trainer/ppo_utils/
samples_generator.py (SamplesGenerator). Bodies are ours: the draws and answers come in the order of OpenRLHF's.
"""

from __future__ import annotations

from types import SimpleNamespace


class PromptDataset:
    def __init__(self, prompts, images=None):
        self.items = [("sums", prompt, "", images[row] if images else None) for row, prompt in enumerate(prompts)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, idx):
        return self.items[idx]

    def collate_fn(self, item_list):
        return tuple([item[column] for item in item_list] for column in range(4))


def prepare_datasets(strategy, tokenizer):
    """The loader of prompts (torchdata's StatefulDataLoader with a batch size of 1), that of the evaluation, steps."""
    dataset = PromptDataset(strategy.prompts, strategy.images)

    class Loader:
        collate_fn = staticmethod(dataset.collate_fn)

        def __len__(self):
            return len(dataset)

    loader = Loader()
    loader.dataset = dataset
    return loader, None, 10


class SamplesGenerator:
    def __init__(self, strategy, prompts_dataloader, eval_dataloader, tokenizer, vllm_engines):
        self.args = strategy.args
        self.prompts_dataloader = prompts_dataloader
        self.vllm_engines = vllm_engines

    def generate_samples(self, **generate_kwargs):
        """Samples, pass rate of the filter, prompts consumed, whether the loader is exhausted."""
        if getattr(self, "_dataloader_iter", None) is None:
            self._dataloader_iter = iter(self.prompts_dataloader)
        prompts = self._draw(self.args.rollout.batch_size)
        exhausted, consumed, samples = len(prompts) < self.args.rollout.batch_size, len(prompts), []
        pending = [self._generate(prompt) for prompt in prompts]
        while pending:
            experiences = [self._process_response_into_experience(response) for response in pending.pop(0)]
            scores = [experience.score for experience in experiences]
            if self.args.algo.dynamic_filtering_enable and None not in scores:
                low, high = self.args.algo.dynamic_filtering_range
                if not low < sum(scores) / len(scores) < high:
                    replacement = self._draw(1)
                    consumed += len(replacement)
                    exhausted |= not replacement
                    pending += [self._generate(prompt) for prompt in replacement]
                    continue
            samples += experiences
        if exhausted:
            self._dataloader_iter = None
        return samples, None, consumed, exhausted

    def _process_response_into_experience(self, response, **generate_kwargs):
        return SimpleNamespace(prompts=[response["prompt"]], score=response["scores"])

    def _draw(self, number):
        prompts = []
        while len(prompts) < number:
            try:
                _, each, _, _ = next(self._dataloader_iter)
            except StopIteration:
                break
            prompts += each
        return prompts

    def _generate(self, prompt):
        return self.vllm_engines[0].generate_responses.remote(
            prompt=prompt,
            label="",
            sampling_params=None,
            max_length=8,
            hf_tokenizer=None,
            num_samples=self.args.rollout.n_samples_per_prompt,
            images=None,
        )
