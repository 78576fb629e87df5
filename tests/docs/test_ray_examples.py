"""The cluster examples are what Ray and KubeRay take, and their commands what this package does."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import ray.autoscaler
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from starr_engine.cli.main import make_parser
from starr_engine.distributed.serve_app import AppArgs, build
from starr_engine.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples" / "ray"
CLUSTER, JOB = EXAMPLES / "cluster.yaml", EXAMPLES / "kuberay_job.yaml"
SERVICE = EXAMPLES / "kuberay_service.yaml"

# Of the custom resources RayJob and RayService, ray.io/v1, in helm-chart/kuberay-operator/crds of
# ray-project/kuberay (2026-11): the fields of each object, and those that it must have.
JOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy",
    "metadata", "preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate",
    "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
SERVICE_FIELDS = {
    "deploymentUnhealthySecondThreshold", "excludeHeadPodFromServeSvc", "managedBy",
    "rayClusterConfig", "rayClusterDeletionDelaySeconds", "serveConfigV2", "serveService",
    "serviceUnhealthySecondThreshold", "suspend", "upgradeStrategy",
}  # fmt: skip
CLUSTER_FIELDS = {
    "": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
        "headGroupSpec", "headServiceAnnotations", "historyServerOptions", "managedBy",
        "networkPolicy", "rayVersion", "suspend", "tlsOptions", "upgradeStrategy",
        "workerGroupSpecs",
    },
    "headGroupSpec": {
        "enableIngress", "headService", "ingressOptions", "labels", "rayStartParams", "resources",
        "serviceType", "template",
    },
    "workerGroupSpecs.0": {
        "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts",
        "priority", "rayStartParams", "replicas", "resources", "scaleStrategy", "suspend",
        "template",
    },
}  # fmt: skip
REQUIRED = {
    "": {"headGroupSpec"},
    "headGroupSpec": {"template"},
    "workerGroupSpecs.0": {"groupName", "maxReplicas", "minReplicas", "template"},
}


def at(document: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
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


@pytest.mark.parametrize(
    ("path", "kind", "fields", "name"),
    [
        (JOB, "RayJob", JOB_FIELDS, "rayClusterSpec"),
        (SERVICE, "RayService", SERVICE_FIELDS, "rayClusterConfig"),
    ],
)
def test_resources_of_kuberay_have_its_fields(
    path: Path, kind: str, fields: set[str], name: str
) -> None:
    document = yaml.safe_load(path.read_text())
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(document["spec"]) <= fields
    cluster = document["spec"][name]
    for part, known in CLUSTER_FIELDS.items():
        assert REQUIRED[part] <= set(at(cluster, part)) <= known
    assert cluster["rayVersion"] in path.read_text().split("apiVersion")[0], "the image's Ray"
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


def test_the_service_is_an_application_that_its_builder_takes_and_that_fits_its_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = yaml.safe_load(SERVICE.read_text())["spec"]
    schema = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = schema.applications
    module, _, name = application.import_path.partition(":")
    builder = getattr(importlib.import_module(module), name)
    args = AppArgs.model_validate(application.args)
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    there = {"GPU": float(container["resources"]["limits"]["nvidia.com/gpu"]), "CPU": 4.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}])
    front = builder(args)._bound_deployment
    engines = front.init_args[0]._bound_deployment
    scaling = engines._deployment_config.autoscaling_config
    assert engines.ray_actor_options["num_gpus"] == there["GPU"]
    assert scaling.max_replicas == group["maxReplicas"]
    assert scaling.target_ongoing_requests == args.engine["max_num_requests"]
    assert front._deployment_config.num_replicas == args.fronts
    (key,) = [each for each in container["env"] if each["name"] == args.api_key_env]
    assert "secretKeyRef" in key["valueFrom"]
    # Whoever is cut off hears it from the server, which knows why.
    limit_s = front.init_args[1].request_timeout_s
    assert schema.http_options.request_timeout_s > limit_s
    pod = group["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > (
        engines._deployment_config.graceful_shutdown_timeout_s
    )


def test_an_application_without_keys_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="api_key_file or api_key_env, or no_auth=true"):
        build(AppArgs(model="tiny-sdar"))
    with pytest.raises(ValidationError, match=r"replica\b"):
        AppArgs.model_validate({"model": "tiny-sdar", "replica": 2})
    assert AppArgs.model_validate({"replicas": "2", "no_auth": "true"}).replicas == 2


def test_serve_makes_the_arguments_of_its_command_by_the_class_of_the_parameter():
    parameter = inspect.signature(build).parameters["args"]
    assert parameter.annotation is AppArgs
