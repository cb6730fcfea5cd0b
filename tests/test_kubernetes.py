"""deploy/kubernetes: sound by the schemas of Kubernetes, safe, and at one with the knobs, the ports and the image."""

import copy
import re
from typing import Any

import kubernetes_validate
import pytest
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from conftest import REPOSITORY
from manifests import DEPLOY, arguments, built, documents
from pydantic import BaseModel
from worlds import random_model

from pipeline.config import environment_name, knobs, load_config
from pipeline.durations import parse_duration
from pipeline.footprint import PROCESS_BYTES, footprint
from pipeline.schema import load_schema

KUBERNETES = DEPLOY / "kubernetes"
VERSION = "1.31"
KINDS = (ScaledObject, TriggerAuthentication, ServiceMonitor)
UNITS = {"Mi": 2**20, "Gi": 2**30}


def custom(document: dict[str, Any]) -> bool:
    """Is it of a kind that Kubernetes itself does not know?"""
    group = document["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


RESOURCES = {
    path.relative_to(KUBERNETES).as_posix(): documents(path)
    for path in sorted(KUBERNETES.glob("*/*.yaml"))
    if path.name not in ("kustomization.yaml", "login.yaml")
}
PLAIN = [document for found in RESOURCES.values() for document in found if not custom(document)]
TOMLS = sorted(KUBERNETES.glob("*/graphsieve.toml"))


def one(kind: str, name: str = "graphsieve") -> dict[str, Any]:
    (found,) = [d for ds in RESOURCES.values() for d in ds if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


SCORE, QUALITY = one("StatefulSet"), one("Deployment", "graphsieve-quality")
PODS = [pytest.param(workload["spec"]["template"]["spec"], id=workload["kind"]) for workload in (SCORE, QUALITY)]


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


# ---- schemas ----


@pytest.mark.parametrize("document", [pytest.param(d, id=f"{d['kind']}-{d['metadata']['name']}") for d in PLAIN])
def test_every_resource_of_kubernetes_is_sound_by_its_schema(document):
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schemas_refuse_what_is_misspelt():
    wrong = copy.deepcopy(SCORE)
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def unknown_to(kind: type[BaseModel], document: dict[str, Any]) -> bool:
    """Has a custom resource a field that its kind does not have? ValidationError where a value does not fit."""
    return kind.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True) != document


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_custom_resource_is_sound_by_its_kind(kind):
    document = one(kind.__name__, {"TriggerAuthentication": "graphsieve-kafka"}.get(kind.__name__, "graphsieve"))
    assert not unknown_to(kind, document)
    wrong = copy.deepcopy(document)
    wrong["spec"]["pollInterval"] = 15
    assert unknown_to(kind, wrong)


def test_the_custom_resources_of_the_example_are_sound_by_their_kinds():
    kinds = {kind.__name__: kind for kind in KINDS}
    found = [document for document in built(KUBERNETES / "example") if custom(document)]
    assert len(found) == 3
    assert not any(unknown_to(kinds[document["kind"]], document) for document in found)


def test_every_file_of_a_folder_is_used_by_its_kustomization():
    for folder in (KUBERNETES / name for name in ("base", "scaling", "monitoring", "example")):
        text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
        for path in folder.iterdir():
            assert path.name == "kustomization.yaml" or path.name in text, path


# ---- what is made of them ----


def test_the_example_is_the_base_with_scaling_monitoring_and_secrets():
    made = built(KUBERNETES / "example")
    kinds = sorted(document["kind"] for document in made)
    assert kinds == sorted([
        "ServiceAccount", "ConfigMap", "ConfigMap", "Service", "Service", "PersistentVolumeClaim", "Deployment",
        "StatefulSet", "PodDisruptionBudget", "ScaledObject", "TriggerAuthentication", "ServiceMonitor",
        "NetworkPolicy",
    ])  # fmt: skip
    for document in made:
        assert document["metadata"]["namespace"] == "graphsieve"
        if not custom(document):
            kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("folder", ["base", "example"])
def test_whatever_pods_refer_to_is_made_too_but_for_the_model_and_the_secret(folder):
    made = built(KUBERNETES / folder)
    there = {(document["kind"], document["metadata"]["name"]) for document in made}
    there |= {("ConfigMap", "graphsieve-model"), ("Secret", "graphsieve-kafka")}
    for workload in made:
        if workload["kind"] in ("StatefulSet", "Deployment"):
            pod = workload["spec"]["template"]["spec"]
            claimed = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])]
            assert set(references(pod)) <= there
            volumes = {volume["name"] for volume in pod["volumes"]} | set(claimed)
            assert {mount["name"] for mount in container(pod)["volumeMounts"]} == volumes


def references(pod):
    for volume in pod["volumes"]:
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        elif "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        elif "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for variable in container(pod)["env"]:
        for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
            if key in variable.get("valueFrom", {}):
                yield kind, variable["valueFrom"][key]["name"]


def test_the_login_of_the_example_is_by_reference_only():
    made = built(KUBERNETES / "example")
    secret = {environment_name("kafka", key) for key in ("username", "password")}
    for workload in made:
        if workload["kind"] in ("StatefulSet", "Deployment"):
            env = {one["name"]: one for one in container(workload["spec"]["template"]["spec"])["env"]}
            assert all("secretKeyRef" in env[name]["valueFrom"] for name in secret)
    assert not any(load_config(path, environment={}).kafka.password for path in TOMLS)


# ---- knobs ----


@pytest.mark.parametrize("path", TOMLS, ids=lambda path: path.parent.name)
def test_every_value_of_the_configuration_is_a_knobs(path):
    config = load_config(path, environment={})
    assert (config.metrics.host, config.metrics.port) == ("0.0.0.0", 9108)


@pytest.mark.parametrize("pod", PODS)
def test_every_variable_of_ours_is_a_knobs_and_every_argument_an_option(pod):
    names = {environment_name(*knob.split(".")) for knob in knobs()}
    ours = {variable["name"] for variable in container(pod)["env"] if variable["name"].startswith("GRAPHSIEVE_")}
    assert ours <= names
    words = [word.replace("$(KAFKA_BROKERS)", "kafka:9092") for word in container(pod)["args"]]
    assert arguments(words).config.name == "graphsieve.toml"


def test_no_pod_gets_variables_that_look_like_knobs_from_the_services_of_its_namespace():
    assert all(w["spec"]["template"]["spec"]["enableServiceLinks"] is False for w in (SCORE, QUALITY))


def test_a_consumer_is_named_after_its_pod():
    (instance,) = [v for v in container(SCORE["spec"]["template"]["spec"])["env"] if v["name"].endswith("INSTANCE")]
    assert instance["name"] == environment_name("kafka", "instance")
    assert instance["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"


def test_a_pod_has_longer_to_stop_than_the_consumer_takes_at_most():
    bound = parse_duration(knobs().get("score.stop", "30s"))
    assert SCORE["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > bound


def test_keda_counts_the_lag_of_the_group_and_the_topic_that_are_scored():
    for path in TOMLS:
        config = load_config(path, environment={})
        trigger = one("ScaledObject")["spec"]["triggers"][0]["metadata"]
        assert (trigger["consumerGroup"], trigger["topic"]) == (config.score.group, config.topics.events)
        assert trigger["allowIdleConsumers"] == "false"
        assert trigger["bootstrapServersFromEnv"] in {
            v["name"] for v in container(SCORE["spec"]["template"]["spec"])["env"]
        }


# ---- ports and probes ----


@pytest.mark.parametrize(("workload", "port"), [(SCORE, 9108), (QUALITY, 9118)], ids=["score", "quality"])
def test_probes_services_and_the_policy_lead_to_the_port_that_is_served(workload, port):
    serving = container(workload["spec"]["template"]["spec"])
    assert serving["ports"] == [{"name": "metrics", "containerPort": port}]
    served = arguments([*serving["args"]]).metrics_port
    assert int(served or load_config(KUBERNETES / "base/graphsieve.toml", environment={}).metrics.port) == port
    pages = {kind: serving[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: page["path"] for kind, page in pages.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert all(page["port"] == "metrics" for page in pages.values())
    service = one("Service", workload["metadata"]["name"])["spec"]
    assert service["ports"] == [{"name": "metrics", "port": port, "targetPort": "metrics"}]
    assert service["selector"] == workload["spec"]["selector"]["matchLabels"]
    assert one("NetworkPolicy")["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "metrics"}]


def test_jobs_are_named_as_the_rules_know_them():
    (config,) = documents(DEPLOY / "prometheus.yml")
    assert {job["job_name"] for job in config["scrape_configs"]} == {"graphsieve", "graphsieve-quality"}
    monitor = one("ServiceMonitor")["spec"]
    assert "jobLabel" not in monitor  # then a job has the name of its service
    for name in ("graphsieve", "graphsieve-quality"):
        labels = one("Service", name)["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()


# ---- safety and size ----


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_confined(pod):
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container(pod)["securityContext"] == {
        "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    user = re.search(r"^USER (\d+):(\d+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert "/tmp" in {mount["mountPath"] for mount in container(pod)["volumeMounts"]}


def test_the_resources_are_those_of_the_shard_that_the_manifest_names():
    text = (KUBERNETES / "base/score.yaml").read_text(encoding="utf-8")
    nodes, lists = map(int, re.search(r"inspect MODEL --nodes (\d+) --lists (\d+)", text).groups())
    each = footprint(random_model(load_schema(DEPLOY / "schemas/synthetic.toml"), width=16))
    resources = container(SCORE["spec"]["template"]["spec"])["resources"]
    least, most = (PROCESS_BYTES + size(nodes, lists) for size in (each.least, each.most))
    assert least < bytes_of(resources["requests"]["memory"]) < 1.2 * least
    assert most < bytes_of(resources["limits"]["memory"]) < 1.2 * most
    (claim,) = SCORE["spec"]["volumeClaimTemplates"]
    assert bytes_of(claim["spec"]["resources"]["requests"]["storage"]) > 3 * each.least(nodes, lists)


def test_a_checkpoint_fits_into_a_configmap(tmp_path):
    model = random_model(load_schema(DEPLOY / "schemas/synthetic.toml"), width=16)
    model.save(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) * 4 / 3 < 2**20
