"""The versions in the cluster files are those of pyproject.toml and constraints.txt."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.name != "auth_token")
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
GPU = (ROOT / "constraints-gpu.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]


def pins(text):
    """Version of each package, by its normalised name."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def named(pattern):
    """Returns the match of a pattern's group, by file."""
    return {path.relative_to(ROOT): found for path in FILES if (found := re.findall(pattern, path.read_text()))}


def test_images_of_the_project_have_its_version():
    found = named(r"\bvaedist:(\d[\w.]*)")
    assert len(found) >= 8
    assert {version for versions in found.values() for version in versions} == {VERSION}


def test_the_manifests_name_the_pinned_version_of_ray():
    found = named(r"rayVersion: \"(\S+)\"")
    assert {path.name for path in found} == {"raycluster.yaml", "rayjob.yaml"}
    assert {version for versions in found.values() for version in versions} == {pins(CONSTRAINTS)["ray"]}


def test_the_image_has_the_python_that_the_versions_were_tested_with():
    tested = re.search(r"\(Python ([\d.]+),", CONSTRAINTS).group(1)
    [base] = named(r"PYTHON_IMAGE=python:(\S+)")[Path("cluster/docker/Dockerfile")]
    assert base.startswith(f"{tested}.")


def test_every_image_has_a_tag_that_is_not_latest():
    images = named(r"(?:^|\s)(?:head_|worker_)?image: (\S+)")
    assert len(images) >= 7
    for path, names in images.items():
        for name in names:
            _, _, tag = name.rpartition("/")[2].partition(":")
            assert re.match(r"\d+\.\d+\.\d+", tag), (path, name)
    assert not named(r"(:latest\b)")


def test_the_images_pins_add_to_those_of_the_project():
    image, gpu = pins((CLUSTER / "docker" / "constraints-image.txt").read_text()), pins(GPU)
    assert image
    assert image.keys().isdisjoint(pins(CONSTRAINTS))
    assert gpu.keys().isdisjoint(image | pins(CONSTRAINTS))


def test_cudas_packages_are_pinned_and_are_those_that_tensorflow_asks_for():
    [extra] = PROJECT["optional-dependencies"]["gpu"]
    assert Requirement(extra).extras == {"and-cuda"}
    asked = [Requirement(one) for one in importlib.metadata.requires("tensorflow")]
    cuda = {one.name: one.specifier for one in asked if one.marker and one.marker.evaluate({"extra": "and-cuda"})}
    cuda = {name: wanted for name, wanted in cuda.items() if name.startswith("nvidia-")}
    assert cuda.keys() == pins(GPU).keys()
    assert [name for name, version in pins(GPU).items() if version not in cuda[name]] == []


def test_every_installation_of_the_extra_gpu_is_pinned():
    pages = [ROOT / "docs" / "scaling.md", CLUSTER / "README.md", CLUSTER / "docker" / "Dockerfile"]
    lines = [line for page in pages for line in page.read_text().splitlines() if "install" in line and "gpu]" in line]
    assert lines
    assert all("-c constraints.txt -c constraints-gpu.txt" in line for line in lines)


def test_the_minimum_driver_version_is_documented():
    [least] = re.findall(r"driver (\d+\.\d+\.\d+)", GPU)
    for page in ("docs/scaling.md", "cluster/README.md"):
        assert least in (ROOT / page).read_text()


def test_the_launchers_pins_are_those_of_the_project():
    launcher, project = pins((CLUSTER / "docker" / "constraints-launcher.txt").read_text()), pins(CONSTRAINTS)
    assert {"boto3", "google-api-python-client"} <= set(launcher)
    assert {name for name in set(launcher) & set(project) if launcher[name] != project[name]} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_lines_fit(path):
    if path.suffix != ".md":
        assert max(map(len, path.read_text().splitlines())) <= 120
