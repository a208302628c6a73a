"""verl's own trainer in one process on a CPU: only what needs a GPU is replaced, which is what calls a model.

Real are verl's configuration, data set, data loader, replay buffer, agent loop worker, reward manager, trainer loop,
advantages, checkpoints, and TransferQueue, whose controller and storage run here as objects instead of Ray actors.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import torch
import transfer_queue
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import interface
from transfer_queue.controller import TransferQueueController
from transfer_queue.storage.simple_storage import SimpleStorageUnit
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.v1 import AgentLoopWorkerTQ, PPOTrainerSync
from verl.utils.config import validate_config
from verl.workers.rollout.replica import TokenOutput

REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info, **settings):
    return {"1": {"score": 1.0, "acc": True}, "0": {"score": 0.1, "acc": False}}.get(
        solution_str[0], {"score": 0.0, "acc": float("nan")}
    )
"""
"""What the completions below are worth: right, wrong, not judged."""


def without_ray(actor_class):
    return actor_class.__ray_metadata__.modified_class


@contextmanager
def transfer_queue_here():
    """TransferQueue with its own sockets, in this process."""
    settings = OmegaConf.load(resources.files("transfer_queue") / "config.yaml")
    settings = OmegaConf.merge(OmegaConf.create({}, flags={"allow_objects": True}), settings)
    controller = without_ray(TransferQueueController)()
    storage = without_ray(SimpleStorageUnit)(dict(settings.backend.SimpleStorage))
    settings.controller.zmq_info = controller.get_zmq_server_info()
    settings.backend.SimpleStorage.zmq_info = {"storage": storage.get_zmq_server_info()}
    interface._maybe_create_tq_client(settings)
    init, transfer_queue.init = transfer_queue.init, lambda conf=None: conf
    try:
        yield
    finally:
        transfer_queue.init = init
        transfer_queue.close()
        storage.shutdown()


def verl_config(overrides):
    """As ``python -m verl.trainer.main_ppo OVERRIDES`` composes and checks it."""
    import verl.trainer

    with initialize_config_dir(str(Path(verl.trainer.__file__).parent / "config"), version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    validate_config(config=config, use_reference_policy=False, use_critic=False)
    config.transfer_queue.enable = True
    OmegaConf.resolve(config)
    return config


class Trainer(PPOTrainerSync):
    """verl's, with ``verdict(step, prompt, rollout)`` in place of rollout engine, actor and GPUs."""

    def __init__(self, config, verdict):
        super().__init__(config)
        self.verdict = verdict
        self.replay_buffer.poll_interval = 0.01
        self.rolled_out = []
        """By step, the prompt of every completion that was asked for."""

    def _setup(self):
        self._init_tokenizer()
        self._init_dataloader()
        self._init_dump_executor()
        self.actor_rollout_wg = Actor()
        self.reward_loop_manager = RewardLoop(self.config)
        self.teacher_model_manager = self.distillation_config = None
        self.checkpoint_manager = self.llm_server_manager = self.resource_pool_manager = Engines()
        self._load_checkpoint()

    def train(self):
        """As verl's TaskRunner does it."""
        self.init()
        agent_loop = AgentLoop(self)
        try:
            self.fit(agent_loop)
        finally:
            agent_loop.close()


class AgentLoop:
    """verl's manager of agent loops with one worker, whose asynchronous tasks run in a thread."""

    def __init__(self, trainer):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.worker = self._run(self._make_worker(trainer))

    async def _make_worker(self, trainer):
        return without_ray(AgentLoopWorkerTQ)(
            config=trainer.config,
            llm_client=Engine(trainer),
            reward_loop_worker_handles=trainer.reward_loop_manager.reward_loop_worker_handles,
        )

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def generate_sequences(self, prompts):
        self._run(self.worker.generate_sequences(prompts))

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Engine:
    """In place of the client of the rollout servers: answers 1, 0 or 9, once or more, for right, wrong, not judged."""

    def __init__(self, trainer):
        self.trainer, self.asked = trainer, {}

    async def generate(self, *, request_id, prompt_ids, sampling_params, **more):
        step = self.trainer.global_steps
        if step not in self.asked:
            self.asked[step] = Counter()
            self.trainer.rolled_out.append(self.asked[step])
        prompt = self.trainer.tokenizer.decode(prompt_ids)
        self.asked[step][prompt] += 1
        rollout = self.asked[step][prompt] - 1
        verdict = self.trainer.verdict(step - 1, prompt, rollout)
        tokens = self.trainer.tokenizer.encode({True: "1", False: "0", None: "9"}[verdict], add_special_tokens=False)
        tokens = tokens * (1 + rollout % 3)
        return TokenOutput(
            token_ids=tokens,
            log_probs=[-0.5] * len(tokens),
            extra_fields={"min_global_steps": step - 1, "max_global_steps": step - 1},
        )


class RewardLoop:
    """verl's reward worker, called as if it was an actor."""

    def __init__(self, config):
        self.worker, self.config = None, config
        self.reward_loop_worker_handles = [self]
        self.compute_score = self

    async def remote(self, data):
        if self.worker is None:
            self.worker = RewardLoopWorker(self.config)
        return await self.worker.compute_score(data)


class Actor:
    """In place of the worker group that trains: log-probs and metrics as it gives them."""

    def __init__(self):
        self._dispatch_info = {"actor": [0]}

    def compute_log_prob(self, batch):
        fields = transfer_queue.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["input_ids"]
        )
        values = torch.nested.as_nested_tensor(
            [torch.full((len(ids),), -0.5) for ids in fields["input_ids"].unbind()], layout=torch.jagged
        )
        transfer_queue.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict({"log_probs": values, "entropy": values}, batch_size=len(batch)),
        )
        return batch

    def update_actor(self, batch):
        return {"metrics": {"mfu": [0.0], "grad_norm": [1.0]}}

    def save_checkpoint(self, local_path, *more, **settings):
        Path(local_path).mkdir(parents=True, exist_ok=True)

    def load_checkpoint(self, local_path, **settings):
        assert Path(local_path).is_dir()


class Engines:
    """In place of the rollout servers, the transfer of weights to them, and the GPUs."""

    def sleep_replicas(self): ...

    def update_weights(self, step): ...

    def get_n_gpus(self):
        return 1
