"""`insight-rl env`: one screen, without secrets, and no library is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from insight_rl.cli import env
from insight_rl.cli.env import describe_environment


def test_secrets_are_hidden_and_home_is_short(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    environment = {
        "HF_TOKEN": "hf_" + "a" * 30,
        "HF_HOME": "/home/me/cache",
        "WANDB_API_KEY": "0123456789abcdef",
        "HTTPS_PROXY": "http://me:word@proxy:80",
        "PYTHONPATH": "/home/me/a:/home/me/b\x1b[2J",
        "NCCL_DEBUG": "see 0123456789abcdef",
        "EDITOR": "ed",
    }
    screen = "\n".join(describe_environment(environment))
    assert "  HF_TOKEN=[hidden]\n" in screen and "  WANDB_API_KEY=[hidden]" in screen
    assert "  HF_HOME=~/cache\n" in screen and "EDITOR" not in screen
    assert "http://[hidden]@proxy:80" in screen and "NCCL_DEBUG=see [hidden]" in screen
    assert "PYTHONPATH=~/a:~/b\\x1b[2J" in screen
    assert not any(secret in screen for secret in ("hf_a", "0123456789abcdef", "me:word", "/home/me", "\x1b"))
    assert "numpy " in screen and "Python 3" in screen


def test_what_nvidia_smi_says_is_shown_whatever_it_is(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 550.54, 9.0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "GPU: NVIDIA H100, 81559 MiB, 550.54, 9.0" in describe_environment({})
    program.write_text("#!/bin/sh\necho 'no devices were found'; exit 6\n")
    assert "GPU: no devices were found" in describe_environment({})
    monkeypatch.setattr(env, "_NVIDIA_SMI_DEADLINE_S", 0.05)
    program.write_text("#!/bin/sh\nexec sleep 5\n")
    assert "GPU: nvidia-smi does not answer (TimeoutExpired)" in describe_environment({})


def test_no_library_is_imported_for_it():
    code = (
        "import sys; from insight_rl.cli.main import main; main(['env']); main(['--version'])\n"
        "print([name for name in ('torch', 'numpy', 'yaml', 'hydra', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
