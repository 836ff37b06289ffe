"""The Compose file: valid by the specification, and everything it names exists."""

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from typer.testing import CliRunner

from consumers.settings import load
from segstream.shell.metrics import SEGMENTER, TRAINER

ROOT = Path(__file__).parents[1]
SPECIFICATION = Path(__file__).parent / "data" / "third_party" / "compose-spec.json"
OWN_IMAGE = "segstream"


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def own_services() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, service in compose()["services"].items():
        if service["image"] == OWN_IMAGE:
            yield name, service


def test_it_is_valid_by_the_specification() -> None:
    specification = json.loads(SPECIFICATION.read_text())
    validator = jsonschema.Draft7Validator(specification)
    assert [error.message for error in validator.iter_errors(compose())] == []
    broken = {"services": {"kafka": {"image": "apache/kafka", "port": ["9092:9092"]}}}
    assert not validator.is_valid(broken)


def test_everything_that_is_referred_to_is_there() -> None:
    document = compose()
    for name, service in document["services"].items():
        for other, condition in service.get("depends_on", {}).items():
            target = document["services"][other]
            if condition["condition"] == "service_healthy":
                assert "test" in target["healthcheck"], f"{name} waits for {other}"
        for mount in service.get("volumes", []):
            source, target_path, *_ = mount.split(":")
            assert target_path.startswith("/")
            if source.startswith("."):
                assert (ROOT / source).is_file(), mount
            else:
                assert source in document["volumes"], mount
        if "build" in service:
            assert (ROOT / service["build"] / "Dockerfile").is_file()
    assert {name for name, _ in own_services()} == {"topics", "segmenter", "trainer"}


def test_every_service_has_a_health_check() -> None:
    for name, service in compose()["services"].items():
        health = service["healthcheck"]
        assert "test" in health or (name == "topics" and health["disable"])


def test_every_variable_is_a_setting() -> None:
    for _, service in own_services():
        environment = service["environment"]
        settings = load(environment)  # refuses variables that it does not know
        assert settings.kafka["bootstrap.servers"] == "kafka:19092"
        assert settings.redis.url == environment["SEGSTREAM_REDIS_URL"]
        assert (settings.metrics.address, settings.metrics.port) == ("0.0.0.0", 9464)
        assert (settings.topics.partitions, settings.topics.replication) == (8, 1)


def test_addresses_are_those_of_the_services() -> None:
    services = compose()["services"]
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    for _, service in own_services():
        environment = service["environment"]
        host, port = environment["SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS"].split(":")
        assert host in services
        assert f"INSIDE://{host}:{port}" in listeners
        redis = environment["SEGSTREAM_REDIS_URL"].removeprefix("redis://").split("/")[0]
        host, port = redis.split(":")
        assert any(published.endswith(f":{port}") for published in services[host]["ports"])


def test_nothing_is_published_beyond_this_machine() -> None:
    for name, service in compose()["services"].items():
        for published in service.get("ports", []):
            assert published.startswith("127.0.0.1:"), name


def test_prometheus_scrapes_the_ports_of_the_processes() -> None:
    scrape: dict[str, Any] = yaml.safe_load((ROOT / "prometheus.yml").read_text())
    services = dict(own_services())
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in scrape["scrape_configs"]}
    assert set(jobs) == set(services) - {"topics"}
    for name, job in jobs.items():
        assert job["names"] == [name]
        port = services[name]["environment"]["SEGSTREAM_METRICS_PORT"]
        assert str(job["port"]) == port
        assert f":{port}/" in services[name]["healthcheck"]["test"][-1]


def test_redis_keeps_what_it_is_given() -> None:
    command = " ".join(compose()["services"]["redis"]["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command


@pytest.mark.parametrize("name", [name for name, _ in own_services()])
def test_every_command_exists(name: str) -> None:
    app = importlib.import_module("consumers.cli").app
    assert isinstance(app, typer.Typer)
    command = dict(own_services())[name]["command"]
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output


def test_the_image_starts_the_command_of_the_package() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert f'ENTRYPOINT ["{next(iter(scripts))}"]' in dockerfile
    assert dockerfile.index("USER segstream") < dockerfile.index("ENTRYPOINT")
    kept = (ROOT / ".dockerignore").read_text().split("\n")
    for line in dockerfile.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in kept, source


def test_alerts_name_metrics_and_labels_that_exist() -> None:
    """Their syntax is Prometheus's own affair: `promtool check rules alerts.yml`."""
    labels = {metric.name: set(metric.labels) for metric in (*SEGMENTER, *TRAINER)}
    (group,) = yaml.safe_load((ROOT / "alerts.yml").read_text())["groups"]
    assert "alerts.yml" in yaml.safe_load((ROOT / "prometheus.yml").read_text())["rule_files"]
    for rule in group["rules"]:
        found = re.findall(r"\b(segstream_\w+?)(?:_bucket)?\b(?:\{(\w+)=)?", rule["expr"])
        assert found, rule["alert"]
        for name, label in found:
            assert name in labels, rule["alert"]
            assert not label or label in labels[name], rule["alert"]
        grouped = re.findall(r"by \((.*?)\)", rule["expr"])
        known = set.union({"le"}, *(labels[name] for name, _ in found))
        assert {label for text in grouped for label in text.split(", ")} <= known, rule["alert"]
