"""The files for clusters: nothing here can start one, so they are held against what reads them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from miner.config import MineSettings
from pipelines.mine_imagenet import mine_imagenet
from pipelines.mine_laion import mine_laion
from pipelines.options import settings_from

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "pipelines" / "cluster"
CONTAINERFILE = (CLUSTER / "Containerfile").read_text("utf-8")
HADOLINT = Path(sys.executable).parent / "hadolint"

SCRIPTS = {"mine_laion": mine_laion, "mine_imagenet": mine_imagenet}

# Fields of KubeRay's RayJob (ray.io/v1), of which a misspelt one would be dropped without a word.
JOB_FIELDS = {
    *("entrypoint", "backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes"),
    *("ttlSecondsAfterFinished", "rayClusterSpec", "runtimeEnvYAML", "submissionMode", "suspend"),
    *("entrypointNumCpus", "entrypointNumGpus", "submitterPodTemplate", "metadata"),
}
CLUSTER_FIELDS = {
    *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec"),
    *("rayVersion", "workerGroupSpecs", "gcsFaultToleranceOptions"),
}
GROUP_FIELDS = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    *("idleTimeoutSeconds", "numOfHosts"),
}


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((CLUSTER / name).read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def settings_of(script: click.Command, words: list[str]) -> tuple[MineSettings, dict[str, Any]]:
    """What a script would do with some words."""
    context = script.make_context("script", list(words))
    flags = {n: v for n, v in context.params.items() if n in MineSettings.model_fields}
    if "--num-workers" in words:
        # Their default where Ray has set RAY_ADDRESS; elsewhere such words are refused.
        flags["executor"] = "ray"
    return settings_from(MineSettings, flags, None), context.params


def commands_in(text: str, name: str) -> list[list[str]]:
    """The words of a command wherever comments or docstrings show it."""
    text = re.sub(r"\\\n#?\s*", " ", text)
    return [shlex.split(line) for line in re.findall(rf"^[# ]*({name} .*)$", text, re.MULTILINE)]


def test_ray_takes_the_aws_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("aws.yaml")
    validate_config(prepare_config(config))
    for broken in ({"max_worker": 3}, {"head_node_type": "tail"}):
        with pytest.raises(Exception, match=r"max_worker|available_node_types"):
            validate_config(prepare_config(load("aws.yaml") | broken))


def check_workers(settings: MineSettings, num_nodes: int, num_cores: int = 8) -> None:
    """The head has no GPU, and no node has come: nothing may be left to what is there."""
    assert (settings.device, settings.join) == ("cuda", "triton")
    assert (settings.num_workers, settings.cores_per_worker) == (num_nodes, num_cores)


def test_aws_nodes() -> None:
    config = load("aws.yaml")
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gpu["max_workers"] == config["max_workers"]
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    assert "--env RAY_ADDRESS=auto" in config["docker"]["head_run_options"]
    _, _, _, _, _, *words = commands_in((CLUSTER / "aws.yaml").read_text("utf-8"), "ray submit")[0]
    check_workers(settings_of(mine_laion, words)[0], gpu["max_workers"])
    # What is mounted exists on the node before its container does.
    prepared = " ".join(config["initialization_commands"])
    mounted = [option.split()[1].split(":") for option in options if "--volume" in option]
    assert all(host in prepared.split() for host, _ in mounted)
    assert {inside for _, inside in mounted} == {"/scratch", "/home/ray/.cache"}
    assert "TMPDIR=/scratch" in CONTAINERFILE
    assert "HOME=/home/ray" in CONTAINERFILE
    assert list(config["file_mounts"]) == ["/home/ray/.ray/auth_token"]
    # The dashboard takes jobs: it listens on the head's loopback alone.
    (start,) = (line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("name", ["aws.yaml", "../mine_laion.py", "../mine_imagenet.py"])
def test_ray_submit_as_it_is_shown(name: str) -> None:
    shown = commands_in((CLUSTER / name).read_text("utf-8"), "ray submit")
    assert shown
    for _, _, cluster, script, dashes, *words in shown:
        assert (ROOT / cluster).is_file()
        assert (ROOT / script).is_file()
        assert dashes == "--"
        # Ray joins the words with spaces, for a shell on the head.
        assert all(shlex.split(word) == [word] for word in words)
        command = SCRIPTS[Path(script).stem]
        _, params = settings_of(command, words)
        assert params["out"].startswith("s3://")


@pytest.mark.parametrize("name", ["mine_laion", "mine_imagenet"])
def test_jobs_and_local_runs_as_they_are_shown(name: str) -> None:
    text = (ROOT / "pipelines" / f"{name}.py").read_text("utf-8")
    shown = commands_in(text, "ray job submit --working-dir . -- python")
    shown += commands_in(text, "python")
    assert len(shown) == 2
    for words in shown:
        place = words.index(f"pipelines/{name}.py")
        settings_of(SCRIPTS[name], words[place + 1 :])


def test_kuberay_job() -> None:
    job = load("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec.keys() <= JOB_FIELDS
    assert cluster.keys() <= CLUSTER_FIELDS
    assert cluster["authOptions"] == {"mode": "token"}
    (version,) = re.findall(r"^ARG RAY_VERSION=(.+)$", CONTAINERFILE, re.MULTILINE)
    assert cluster["rayVersion"] == version
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (head, workers):
        assert group.keys() <= GROUP_FIELDS
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        assert mounts["scratch"] == "/scratch"
    limits = container["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    # A run with one damaged shard ends with exit code 3, and is not run again and again.
    assert spec["backoffLimit"] == 0
    settings, _ = settings_of(mine_laion, shlex.split(spec["entrypoint"])[3:])
    check_workers(settings, workers["maxReplicas"], int(limits["cpu"]))


def test_kuberay_entrypoint_is_a_command_of_ours() -> None:
    python, dash_m, module, *words = shlex.split(load("kuberay.yaml")["spec"]["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "pipelines.mine_laion")
    settings, params = settings_of(mine_laion, words)
    assert params["patterns"] == ("s3://BUCKET/laion/{00000..00831}.tar",)
    assert settings.clip_weights == "s3://BUCKET/clip.safetensors#sha256=HEX"


@pytest.mark.skipif(not HADOLINT.exists(), reason="no hadolint for this machine")
def test_containerfile_is_linted() -> None:
    def lint(text: str) -> subprocess.CompletedProcess[str]:
        words = [str(HADOLINT), "--no-color", "--failure-threshold", "style", "-"]
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=60)

    found = lint(CONTAINERFILE)
    assert (found.returncode, found.stdout) == (0, "")
    assert "DL3025" in lint(CONTAINERFILE.replace('["blindpairs", "--help"]', "blindpairs")).stdout


def test_image_holds_what_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    copied = {
        word
        for line in re.findall(r"^COPY (.+) \S+$", CONTAINERFILE, re.MULTILINE)
        for word in line.split()
    }
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert copied == packages | {"pyproject.toml", "README.md", "LICENSE"}
    (python,) = re.findall(r"python:([0-9.]+)-slim", CONTAINERFILE)
    assert f"{python}.1" in SpecifierSet(project["project"]["requires-python"])
    assert re.findall(r"^FROM \S+ AS (\w+)$", CONTAINERFILE, re.MULTILINE) == [
        *("base", "cpu", "cuda")
    ]
    (extras,) = re.findall(r'"\.\[([a-z0-9,]+)\]"', CONTAINERFILE)
    assert set(extras.split(",")) <= project["project"]["optional-dependencies"].keys()
