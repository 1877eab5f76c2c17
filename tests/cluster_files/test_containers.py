"""The image and the compose file."""

import json
import re
from pathlib import Path

import yaml
from ray.scripts.scripts import start

DOCKER = Path(__file__).parents[2] / "cluster" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def stages():
    """Returns the instructions of each stage by its name, without comments, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    parts = re.split(r"^FROM (\S+) AS (\w+)$", text, flags=re.MULTILINE)
    return {
        name: (base, [line for line in body.splitlines() if line])
        for base, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def started(service):
    """Returns the options of a service's `ray start`, as Ray parses them."""
    command = SERVICES[service]["command"]
    assert command[:2] == ["ray", "start"]
    return start.make_context("start", command[2:]).params


def test_images_that_are_run_are_not_root():
    for name in ("vaedist", "launcher"):
        _, lines = stages()[name]
        assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"


def test_no_stage_begins_from_a_tag_that_moves_with_the_version_of_python():
    [base] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)
    assert {base for base, _ in stages().values()} == {"${PYTHON_IMAGE}", "vaedist"}


def test_nothing_is_compiled_in_the_image():
    assert not re.search(r"build-essential|gcc|g\+\+|-dev\b|cmake", DOCKERFILE)


def test_packages_are_pinned():
    _, lines = stages()["packages"]
    [install] = [line for line in lines if "python install" in line]
    assert re.findall(r"-c (\S+)", install) == [
        "constraints.txt", "constraints-gpu.txt", "cluster/docker/constraints-image.txt",
    ]  # fmt: skip
    for _, lines in stages().values():
        for line in lines:
            if " install " in line and "pip --python" in line:
                assert "-c " in line or "--no-deps" in line


def test_the_build_context_contains_only_the_copied_files():
    rules = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    seen = {rule[1:] for rule in rules if rule.startswith("!")}
    used = set(re.findall(r"source=(cluster/\S+?),", DOCKERFILE))
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        used |= set(line.split())
    assert seen == used
    assert not any("token" in name for name in seen)


def test_ports_are_published_on_the_loopback_only():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8265:8265"]
    assert not any(service.get("network_mode") or service.get("privileged") for service in SERVICES.values())


def test_the_token_is_a_secret_from_a_file_that_git_ignores():
    assert COMPOSE["secrets"] == {"ray_token": {"file": "./auth_token"}}
    for service in SERVICES.values():
        assert service["secrets"] == ["ray_token"]
        assert service["environment"] == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token"}
    assert "/cluster/docker/auth_token" in (DOCKER.parents[1] / ".gitignore").read_text().splitlines()


def test_containers_have_no_capabilities_share_the_folder_and_have_shared_memory():
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["volumes"] == ["vaedist:/mnt/vaedist"]
        assert service["shm_size"]
        assert "user" not in service  # uses that of the image


def test_workers_join_the_head_once_it_is_healthy_and_it_has_no_cpus():
    head = started("head")
    assert (head["head"], head["num_cpus"]) == (True, 0)
    for name in ("worker", "gpu-worker"):
        assert started(name)["address"] == f"head:{head['port']}"
        assert started(name)["num_cpus"] == SERVICES[name]["cpus"]
        assert SERVICES[name]["depends_on"] == {"head": {"condition": "service_healthy"}}
    [device] = SERVICES["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == started("gpu-worker")["num_gpus"]
    assert f"127.0.0.1:{head['port']}" in SERVICES["head"]["healthcheck"]["test"][-1]


def test_images_are_built_as_their_tags_say():
    for service in SERVICES.values():
        build = service["build"]
        assert (DOCKER / build["context"]).resolve() == DOCKER.parents[1]
        assert (DOCKER / build["context"] / build["dockerfile"]).exists()
        assert build["target"] in stages()
        assert ("gpu" in build.get("args", {}).get("EXTRAS", "")) == service["image"].endswith("-gpu")


def test_the_object_store_fits_into_shared_memory_and_both_into_the_limit():
    sizes = {
        name: tuple(int(service[key].removesuffix("gb")) * 2**30 for key in ("shm_size", "mem_limit"))
        for name, service in SERVICES.items()
    }
    for name, (shared, limit) in sizes.items():
        assert 0 < started(name)["object_store_memory"] <= 0.95 * shared
        assert shared <= limit / 3


def test_the_image_reports_the_health_of_its_ray_node():
    [check] = [line for line in stages()["vaedist"][1] if line.startswith("HEALTHCHECK")]
    command = json.loads(re.search(r"CMD (\[.*\])$", check).group(1))
    assert command[:2] == ["python", "-c"]
    compile(command[2], "Dockerfile", "exec")
    assert "http://127.0.0.1:52365/api/local_raylet_healthz" in command[2]
    assert "healthcheck" not in SERVICES["worker"]  # uses that of the image
