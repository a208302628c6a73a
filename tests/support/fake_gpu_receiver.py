"""``worker_extension_cls=fake_gpu_receiver.Receiver`` gives vLLM's worker on a CPU the GPU named in the environment."""

import os

import fake_gpu

UUID = "FAKE_GPU_UUID"
fake_gpu.install(os.environ[UUID])


class Receiver:
    """Nothing is added to the worker."""
