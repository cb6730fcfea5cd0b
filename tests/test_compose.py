"""deploy/compose.yaml: sound by its schema, and all that it names is there: files, volumes, ports, knobs, options."""

import importlib.resources
import json
from pathlib import Path

import jsonschema
import pytest
from manifests import DEPLOY, arguments, commands_in, documents

from pipeline.config import load_config

(COMPOSE,) = documents(DEPLOY / "compose.yaml")
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("graphsieve")}


def environment(service):
    return service.get("environment", {})


def test_it_is_a_compose_file():
    schemas = importlib.resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    schema = json.loads(schemas.read_text(encoding="utf-8"))
    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError):  # or the schema would let pass whatever comes
        jsonschema.validate({"services": {"score": {"imagge": "graphsieve"}}}, schema)


def test_everything_of_the_stack_is_there():
    assert set(SERVICES) == {
        "kafka", "topics", "train", "producer", "score-1", "score-2", "quality", "prometheus", "grafana",
    }  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_our_services_give_options_that_there_are(name):
    service = OURS[name]
    if "entrypoint" in service:
        found = list(commands_in("\n".join(service["command"])))
        assert found
    else:
        found = [service["command"]]
    for words in found:
        arguments(words)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_ours_is_a_knob_with_a_value_that_it_takes(name):
    load_config(environment=environment(OURS[name]))


def test_images_of_ours_are_targets_of_the_dockerfile():
    stages = [line.split()[-1] for line in (DEPLOY.parent / "Dockerfile").read_text().splitlines() if " AS " in line]
    for service in OURS.values():
        assert (DEPLOY / service["build"]["context"] / "Dockerfile").is_file()
        assert service["build"]["target"] in stages
    assert all(":" in service["image"] for name, service in SERVICES.items() if name not in OURS)


def test_every_file_and_volume_that_is_mounted_is_there():
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {source for source in mounted if not source.startswith(".")} == set(COMPOSE["volumes"])
    for source in mounted:
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source


def test_ports_are_open_to_this_machine_only_and_to_one_service_each():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    hosts = [port.split(":")[1] for port in published]
    assert len(set(hosts)) == len(hosts)
    for name, service in OURS.items():
        if "ports" in service:
            assert service["ports"][0].endswith(f":{environment(service)['GRAPHSIEVE_METRICS_PORT']}"), name


def test_the_consumers_share_a_group_and_snapshots_and_differ_in_their_names():
    first, second = (arguments(SERVICES[name]["command"]) for name in ("score-1", "score-2"))
    assert (first.log, first.model, first.state, first.group) == (second.log, second.model, second.state, second.group)
    assert [first.instance, second.instance] == ["score-1", "score-2"]
    (topics,) = [words for words in commands_in(SERVICES["topics"]["command"][0]) if "create" in words]
    assert arguments(topics).partitions == 2


def test_containers_of_ours_can_write_nothing_but_what_is_theirs():
    for name, service in OURS.items():
        if name != "train":
            assert (service["read_only"], service["tmpfs"], service["cap_drop"]) == (True, ["/tmp"], ["ALL"]), name
            assert service["init"]


def test_a_consumer_has_longer_to_stop_than_it_takes_at_most():
    for name in ("score-1", "score-2"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 30


# ---- Prometheus ----


def prometheus(path):
    (config,) = documents(path)
    return config


def targets(config):
    return {
        job["job_name"]: [target for static in job["static_configs"] for target in static["targets"]]
        for job in config["scrape_configs"]
    }


def test_prometheus_scrapes_the_services_by_the_ports_that_they_serve():
    found = targets(prometheus(DEPLOY / "compose/prometheus.yml"))
    serving = {
        f"{name}:{environment(service)['GRAPHSIEVE_METRICS_PORT']}"
        for name, service in OURS.items()
        if "GRAPHSIEVE_METRICS_PORT" in environment(service)
    }
    assert {target for job in found.values() for target in job} == serving


def test_prometheus_has_the_jobs_the_rules_and_the_rhythm_of_the_one_beside_processes():
    plain, composed = DEPLOY / "prometheus.yml", DEPLOY / "compose/prometheus.yml"

    def what(path: Path):
        config = prometheus(path)
        rules = [(path.parent / file).resolve() for file in config["rule_files"]]
        ports = {job: [target.split(":")[1] for target in found] for job, found in targets(config).items()}
        return config["global"], rules, ports

    assert what(plain) == what(composed)


def test_prometheus_and_grafana_are_given_the_files_of_the_repository():
    words = SERVICES["prometheus"]["command"]
    assert "--config.file=/etc/graphsieve/compose/prometheus.yml" in words
    assert "./:/etc/graphsieve:ro" in SERVICES["prometheus"]["volumes"]


def test_grafana_finds_prometheus_and_the_dashboards():
    grafana, folder = SERVICES["grafana"], DEPLOY / "grafana"
    ((source,),) = (
        found["datasources"] for file in folder.glob("provisioning/datasources/*") for found in documents(file)
    )
    ((provider,),) = (
        found["providers"] for file in folder.glob("provisioning/dashboards/*") for found in documents(file)
    )
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in SERVICES["prometheus"]["ports"]
    mounted = {place: DEPLOY / own for own, place in (volume.split(":")[:2] for volume in grafana["volumes"])}
    assert list(mounted[provider["options"]["path"]].glob("*.json"))
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted[str(home.parent)] / home.name).is_file()
