"""Importing prints nothing, touches no GPU and configures nothing."""

import subprocess
import sys

CODE = """
import importlib, logging, pkgutil, sys
handlers = list(logging.root.handlers)
import export, kernels, miner, pipelines
names = [
    module.name
    for package in (kernels, miner, export, pipelines)
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
]
# These are imported where --executor ray is given, and nowhere else.
of_ray = {f"pipelines.ray_{name}" for name in ("actor", "cluster", "crew", "executor", "metrics")}
for name in names:
    if name not in of_ray:
        importlib.import_module(name)
import torch
assert not torch.cuda.is_initialized()
assert logging.root.handlers == handlers
assert "ray" not in sys.modules
assert "faiss" not in sys.modules
for name in of_ray:
    importlib.import_module(name)
assert logging.root.handlers == handlers
"""


def test_imports_are_quiet() -> None:
    words = [sys.executable, "-W", "error", "-c", CODE]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, pipelines.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
