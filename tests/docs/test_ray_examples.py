"""The cluster examples are what Ray and KubeRay take, and their commands what this package does."""

from __future__ import annotations

import json
import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from starr_engine.cli.main import make_parser

EXAMPLES = Path(__file__).parents[2] / "examples" / "ray"
CLUSTER, JOB = EXAMPLES / "cluster.yaml", EXAMPLES / "kuberay_job.yaml"

# Of the custom resource RayJob, ray.io/v1, in helm-chart/kuberay-operator/crds of
# ray-project/kuberay (2026-11): the fields of each object, and those that it must have.
FIELDS = {
    "spec": {
        "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy",
        "entrypoint", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId",
        "managedBy", "metadata", "preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML",
        "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate",
        "suspend", "ttlSecondsAfterFinished",
    },
    "spec.rayClusterSpec": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
        "headGroupSpec", "headServiceAnnotations", "historyServerOptions", "managedBy",
        "networkPolicy", "rayVersion", "suspend", "tlsOptions", "upgradeStrategy",
        "workerGroupSpecs",
    },
    "spec.rayClusterSpec.headGroupSpec": {
        "enableIngress", "headService", "ingressOptions", "labels", "rayStartParams", "resources",
        "serviceType", "template",
    },
    "spec.rayClusterSpec.workerGroupSpecs.0": {
        "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts",
        "priority", "rayStartParams", "replicas", "resources", "scaleStrategy", "suspend",
        "template",
    },
}  # fmt: skip
REQUIRED = {
    "spec.rayClusterSpec": {"headGroupSpec"},
    "spec.rayClusterSpec.headGroupSpec": {"template"},
    "spec.rayClusterSpec.workerGroupSpecs.0": {
        "groupName", "maxReplicas", "minReplicas", "template",
    },
}  # fmt: skip


def at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document[int(name) if name.isdigit() else name]
    return document


def batch_arguments(command: str) -> Namespace:
    name, *words = shlex.split(command)
    assert name == "starr-engine"
    return make_parser("batch").parse_args(words)


def cluster_schema() -> Any:
    return json.loads((Path(ray.autoscaler.__path__[0]) / "ray-schema.json").read_text())


def test_the_cluster_is_one_by_rays_schema() -> None:
    cluster = yaml.safe_load(CLUSTER.read_text())
    jsonschema.validate(cluster, cluster_schema())
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_worker": 3}, cluster_schema())


def test_the_command_for_the_cluster_uses_all_of_it() -> None:
    cluster = yaml.safe_load(CLUSTER.read_text())
    comment = " ".join(
        line.strip("# ") for line in CLUSTER.read_text().splitlines() if line.startswith("#")
    )
    found = re.search(r"(starr-engine batch .*?)'", comment)
    assert found is not None
    args = batch_arguments(found[1])
    assert (args.workers, args.ray_address) == (1 + len(cluster["provider"]["worker_ips"]), "auto")
    assert args.resume


def test_the_job_has_the_fields_of_kuberays_resource() -> None:
    job = yaml.safe_load(JOB.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    for path, fields in FIELDS.items():
        assert set(at(job, path)) <= fields
        assert set(at(job, path)) >= REQUIRED.get(path, set())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] in JOB.read_text().split("apiVersion")[0], "the image's Ray"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        # Ray takes its start parameters as text.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        mounts = {mount["name"] for each in pod["containers"] for mount in each.get(
            "volumeMounts", ())}  # fmt: skip
        assert mounts == {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            limits, requests = (container["resources"][name] for name in ("limits", "requests"))
            assert limits == requests, "what Ray counts on is what the pod has"


def test_the_jobs_command_resumes_and_has_a_gpu_for_each_worker() -> None:
    spec = yaml.safe_load(JOB.read_text())["spec"]
    args = batch_arguments(spec["entrypoint"])
    assert args.resume and spec["backoffLimit"] > 0
    assert args.ray_address == "auto"
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert args.workers * args.gpus_per_worker == group["replicas"] * gpus
    (head,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (mount,) = head["volumeMounts"]
    assert args.input.is_relative_to(mount["mountPath"])
    assert args.output.is_relative_to(mount["mountPath"])
