"""Shows whether a release of vLLM has every name, method and keyword that insight_rl uses: by reading its source.

    python scripts/check_vllm_api.py                              the vLLM that is installed here
    python scripts/check_vllm_api.py vllm-0.33.0-*.whl            a wheel, of `pip download --no-deps vllm==0.33.0`
    python scripts/check_vllm_api.py old.whl new.whl folder/vllm  several, and unpacked folders

Nothing is imported or executed, so no GPU and none of vLLM's dependencies are needed. Prints what is missing and ends
with 1 if anything is. It tells that the interface is there, not that it still does the same. Before the pin in
pyproject.toml is moved, run this on the lowest and on the highest release that the new pin admits.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_TRANSFER = "vllm.distributed.weight_transfer"


@dataclass(frozen=True, kw_only=True)
class Use:
    """Something of vLLM's that insight_rl uses: ``name`` of ``module``, dots leading into classes.

    ``keywords``: of a function, what it is called with; of a class, fields that it is built with. ``positional``: how
    many arguments are given without a name, ``self`` left out.
    """

    module: str
    name: str
    keywords: tuple[str, ...] = ()
    positional: int = 0


USES = (
    Use(module="vllm", name="LLM"),
    Use(module="vllm", name="LLM.llm_engine"),
    Use(module="vllm", name="LLM.collective_rpc", keywords=("kwargs",), positional=1),
    Use(module="vllm", name="LLM.apply_model", positional=1),
    Use(module="vllm", name="LLM.reset_prefix_cache", keywords=("reset_running_requests",)),
    Use(module="vllm", name="LLM.sleep", keywords=("level", "mode")),
    Use(module="vllm", name="LLM.wake_up", keywords=("tags",)),
    Use(module="vllm", name="LLM.init_weight_transfer_engine", positional=1),
    Use(module="vllm", name="LLM.start_weight_update"),
    Use(module="vllm", name="LLM.update_weights", positional=1),
    Use(module="vllm", name="LLM.finish_weight_update"),
    Use(
        module="vllm.engine.arg_utils",
        name="EngineArgs",
        # What VllmEngine hands to LLM, which passes it on.
        keywords=(
            *("model", "skip_tokenizer_init", "dtype", "max_model_len", "seed", "enable_prefix_caching"),
            *("logprobs_mode", "disable_log_stats", "enforce_eager", "block_size", "enable_chunked_prefill"),
            *("kv_cache_memory_bytes", "enable_sleep_mode", "gpu_memory_utilization", "weight_transfer_config"),
            *("tensor_parallel_size", "max_num_batched_tokens", "enable_lora", "max_lora_rank"),
        ),
    ),
    Use(
        module="vllm.v1.engine.llm_engine",
        name="LLMEngine.add_request",
        keywords=("lora_request",),
        positional=3,
    ),
    Use(module="vllm.v1.engine.llm_engine", name="LLMEngine.add_lora", positional=1),
    Use(
        module="vllm.lora.request",
        name="LoRARequest",
        keywords=("lora_name", "lora_int_id", "lora_path", "load_inplace"),
    ),
    Use(module="vllm.v1.engine.llm_engine", name="LLMEngine.has_unfinished_requests"),
    Use(module="vllm.v1.engine.llm_engine", name="LLMEngine.step"),
    Use(module="vllm.v1.engine.llm_engine", name="LLMEngine.abort_request", positional=1),
    Use(module="vllm.v1.engine.llm_engine", name="LLMEngine.engine_core"),
    Use(module="vllm.v1.engine.llm_engine", name="LLMEngine.vllm_config"),
    Use(module="vllm.v1.engine.core_client", name="EngineCoreClient.shutdown"),
    Use(
        module="vllm",
        name="SamplingParams",
        keywords=(
            *("n", "temperature", "top_p", "seed", "max_tokens", "ignore_eos", "stop_token_ids", "logprobs"),
            *("flat_logprobs", "detokenize", "output_kind"),
        ),
    ),
    Use(module="vllm.sampling_params", name="RequestOutputKind.FINAL_ONLY"),
    Use(module="vllm.inputs", name="TokensPrompt", keywords=("prompt_token_ids",)),
    Use(module="vllm.outputs", name="CompletionOutput", keywords=("token_ids", "logprobs", "finish_reason")),
    Use(module="vllm.outputs", name="RequestOutput.outputs"),
    Use(module="vllm.outputs", name="RequestOutput.finished"),
    Use(module="vllm.logprobs", name="FlatLogprobs", keywords=("token_ids", "logprobs")),
    Use(module="vllm.platforms", name="current_platform"),
    Use(module="vllm.platforms.interface", name="Platform.is_cpu"),
    Use(module="vllm.platforms.interface", name="Platform.device_type"),
    Use(
        module="vllm.model_executor.layers.vocab_parallel_embedding",
        name="UnquantizedEmbeddingMethod.process_weights_after_loading",
        positional=1,
    ),
    # Called by its name in every worker.
    Use(module="vllm.v1.worker.gpu_worker", name="Worker.reload_weights", keywords=("weights_path",)),
    Use(module="vllm.v1.worker.gpu_model_runner", name="GPUModelRunner.reload_weights", keywords=("weights_path",)),
    Use(
        module=f"{_TRANSFER}.factory",
        name="WeightTransferTrainerFactory.trainer_init",
        keywords=("client", "source"),
        positional=1,
    ),
    Use(module=f"{_TRANSFER}.base", name="TrainerWeightTransferEngine.send_weights"),
    Use(module=f"{_TRANSFER}.base", name="ParamMeta", keywords=("name", "dtype", "shape")),
    Use(module=f"{_TRANSFER}.base", name="WeightSource.metadata"),
    Use(module=f"{_TRANSFER}.base", name="VLLMWeightSyncClient.init_weight_transfer_engine", keywords=("init_info",)),
    Use(module=f"{_TRANSFER}.base", name="VLLMWeightSyncClient.start_weight_update"),
    Use(module=f"{_TRANSFER}.base", name="VLLMWeightSyncClient.update_weights", keywords=("update_info",)),
    Use(module=f"{_TRANSFER}.base", name="VLLMWeightSyncClient.finish_weight_update", keywords=("weight_version",)),
    Use(
        module=f"{_TRANSFER}.ipc_engine",
        name="IPCTrainerInitInfo",
        keywords=("rank", "packed", "packed_buffer_size_bytes"),
    ),
    Use(
        module=f"{_TRANSFER}.nccl_engine",
        name="NCCLTrainerInitInfo",
        keywords=(
            *("rank", "packed", "packed_buffer_size_bytes"),
            *("master_address", "master_port", "world_size"),
        ),
    ),
)

TEXTS = {
    "vllm/envs.py": (
        *("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_ALLOW_INSECURE_SERIALIZATION"),
        *("VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"),
    ),
    "vllm/config/model.py": ("processed_logprobs",),
    f"{_TRANSFER.replace('.', '/')}/factory.py": ("ipc", "nccl"),
    "vllm/v1/worker/gpu_worker.py": ("weights", "kv_cache"),
}
"""Strings that stand in a file: environment variables, names of options and of back ends."""


class Source(Protocol):
    """Where vLLM's files come from; ``name`` stands before what is missing."""

    name: str

    def read(self, path: str) -> str | None:
        """The text of ``vllm/...``; ``None`` where there is no such file."""
        ...


class Wheel:
    def __init__(self, file: Path) -> None:
        self.name = file.name
        self._zip = zipfile.ZipFile(file)
        self._names = set(self._zip.namelist())

    def read(self, path: str) -> str | None:
        return self._zip.read(path).decode("utf-8") if path in self._names else None


class Folder:
    """``folder`` is the package itself: it holds vLLM's ``__init__.py``."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._parent = folder.parent

    def read(self, path: str) -> str | None:
        file = self._parent / path
        return file.read_text(encoding="utf-8") if file.is_file() else None


def installed() -> Folder | None:
    spec = importlib.util.find_spec("vllm")
    return Folder(Path(spec.origin).parent) if spec and spec.origin else None


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign


class Reader:
    """Finds definitions by following imports and base classes, without importing anything."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tree = functools.cache(self._parse)

    def _parse(self, module: str) -> tuple[ast.Module, bool] | None:
        """The module's code, and whether it is a package."""
        path = module.replace(".", "/")
        for file, is_package in ((f"{path}.py", False), (f"{path}/__init__.py", True)):
            text = self._source.read(file)
            if text is not None:
                return ast.parse(text), is_package
        return None

    def find(self, module: str, name: str, seen: frozenset[object] = frozenset()) -> tuple[str, Definition] | None:
        """The module that defines ``name`` and its definition there; imports are followed, guarded ones too."""
        parsed = self._tree(module)
        if parsed is None or (module, name) in seen:
            return None
        tree, is_package = parsed
        for node in _all_statements(tree.body):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
                return module, node
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in _targets(node):
                return module, node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        found = self.find(_absolute(module, is_package, node), alias.name, seen | {(module, name)})
                        if found is not None:
                            return found
        return None

    def class_and_bases(self, module: str, node: ast.ClassDef) -> Iterator[ast.ClassDef]:
        """In the order in which a name is looked up, nearly: bases from left to right, each with its own."""
        yield node
        for base in node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            found = self.find(module, plain.id) if isinstance(plain, ast.Name) else None
            if found is not None and isinstance(found[1], ast.ClassDef) and found[1] is not node:
                yield from self.class_and_bases(found[0], found[1])

    def problem(self, use: Use) -> str | None:
        """What of ``use`` is not there, in a few words."""
        first, _, member = use.name.partition(".")
        found = self.find(use.module, first)
        if found is None:
            return f"there is no {use.module}.{first}"
        module, node = found
        if member:
            return self._problem_of_member(use, module, node, member)
        if isinstance(node, ast.ClassDef):
            fields = {name for each in self.class_and_bases(module, node) for name in _fields(each)}
            missing = [each for each in use.keywords if each not in fields]
            return f"{use.module}.{use.name} has no {', '.join(missing)}" if missing else None
        return None

    def _problem_of_member(self, use: Use, module: str, node: Definition, member: str) -> str | None:
        classes = list(self.class_and_bases(module, node)) if isinstance(node, ast.ClassDef) else []
        for each in classes:
            for statement in each.body:
                if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and statement.name == member:
                    return _problem_of_call(use, statement)
            if member in _fields(each):
                return None
        return f"there is no {use.module}.{use.name}"


def _all_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """With those under ``if`` and ``try`` at the top of a module."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            yield from _all_statements([*node.body, *node.orelse])


def _absolute(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return str(node.module)
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _fields(node: ast.ClassDef) -> set[str]:
    """Names in the class's body, and attributes that its methods give themselves."""
    names: set[str] = set()
    for statement in ast.walk(node):
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            names |= _targets(statement)
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names |= {each.attr for each in targets if isinstance(each, ast.Attribute) and _is_self(each.value)}
        elif isinstance(statement, ast.FunctionDef) and any(_is_property(each) for each in statement.decorator_list):
            names.add(statement.name)
    return names


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_property(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("property", "cached_property")


def _problem_of_call(use: Use, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    arguments = function.args
    named = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    is_static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.decorator_list)
    room = len(named) - (0 if is_static else 1)
    if use.positional > room and arguments.vararg is None:
        return f"{use.module}.{use.name} takes {room} arguments, not {use.positional}"
    known = {*named, *(each.arg for each in arguments.kwonlyargs)}
    missing = [each for each in use.keywords if each not in known]
    if missing and arguments.kwarg is None:
        return f"{use.module}.{use.name} takes no {', '.join(missing)}"
    # What has no default and is not given.
    required = named[0 if is_static else 1 :]
    required = required[: len(required) - len(arguments.defaults)][use.positional :]
    required += [
        each.arg for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value is None
    ]
    not_given = [each for each in required if each not in use.keywords]
    return f"{use.module}.{use.name} now needs {', '.join(not_given)}" if not_given else None


def problems(source: Source) -> list[str]:
    """What insight_rl uses and ``source`` does not have, one line each."""
    reader = Reader(source)
    found = [problem for use in USES if (problem := reader.problem(use))]
    for path, texts in TEXTS.items():
        content = source.read(path)
        if content is None:
            found.append(f"there is no {path}")
            continue
        strings = {node.value for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Constant)}
        found += [f"{path} does not mention {text!r}" for text in texts if text not in strings]
    return found


def open_source(path: Path) -> Source:
    return Wheel(path) if path.suffix == ".whl" else Folder(path)


def main(arguments: list[str]) -> int:
    if any(each.startswith("-") for each in arguments):
        print(__doc__)
        return 2
    here = installed()
    sources = [open_source(Path(each)) for each in arguments] or ([here] if here else [])
    if not sources:
        print("vLLM is not installed here; name a wheel or a folder")
        return 2
    is_whole = True
    for source in sources:
        missing = problems(source)
        is_whole = is_whole and not missing
        print(f"{source.name}: {'all that is used is there' if not missing else f'{len(missing)} missing'}")
        for line in missing:
            print(f"  {line}")
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
