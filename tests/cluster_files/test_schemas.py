"""The Kubernetes manifests against the schemas of Kubernetes and KubeRay, in which unknown fields are errors.

schemas/README.md names the origin of the schemas.
"""

import copy
import json
import lzma
import os
from pathlib import Path

import jsonschema
import pytest
import yaml

SCHEMAS = Path(__file__).parent / "schemas"
FOLDER = Path(__file__).parents[2] / "cluster" / "kubernetes"
DOCUMENTS = {
    f"{document['kind']} {document['metadata']['name']}": document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}
VERSIONS = ("1.29", "1.36")
GROUPS = {"v1": "core.v1", "networking.k8s.io/v1": "networking.v1", "scheduling.k8s.io/v1": "scheduling.v1"}
CUSTOM = ("RayCluster", "RayJob", "PodMonitor")
CRDS = "VAEDIST_KUBERAY_CRDS"


def kubernetes(version, definition):
    """Returns a definition of Kubernetes as a schema."""
    whole = json.loads(lzma.decompress((SCHEMAS / f"kubernetes-{version}.json.xz").read_bytes()))
    assert f"io.k8s.api.{definition}" in whole["$defs"]
    return {"$ref": f"#/$defs/io.k8s.api.{definition}", **whole}


def definition_of(document):
    api = document["apiVersion"]
    return f"{GROUPS.get(api, api.replace('/', '.'))}.{document['kind']}"


def faults(document, schema):
    """Returns the errors of a document by a schema, one line each."""
    found = jsonschema.validators.validator_for(schema)(schema).iter_errors(document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in found]


def closed(**properties):
    """Returns the schema of an object with these fields only; names that end with an underscore are required."""
    return {
        "type": "object",
        "properties": {name.rstrip("_"): schema for name, schema in properties.items()},
        "required": [name.rstrip("_") for name in properties if name.endswith("_")],
        "additionalProperties": False,
    }


TEXT, COUNT, FLAG, FREE = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
RESOURCES = closed(requests_=TEXTS, limits_=TEXTS)
# The fields of KubeRay 1.6 and 1.7 that the files use; pods are checked against Kubernetes' schema.
CLUSTER = closed(
    rayVersion_=TEXT,
    authOptions_=closed(mode_={"enum": ["token", "disabled"]}, secretName_=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT, resources=RESOURCES, securityContext=FREE
    ),
    gcsFaultToleranceOptions=closed(redisAddress_=TEXT, redisPassword=closed(valueFrom_=FREE)),
    headGroupSpec_=closed(rayStartParams_=TEXTS, template_=FREE),
    workerGroupSpecs_={
        "type": "array",
        "items": closed(
            groupName_=TEXT,
            minReplicas_=COUNT,
            maxReplicas_=COUNT,
            replicas=COUNT,
            rayStartParams_=TEXTS,
            template_=FREE,
        ),
    },
)
JOB = closed(
    entrypoint_=TEXT,
    runtimeEnvYAML=TEXT,
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterPodTemplate=FREE,
    rayClusterSpec_=CLUSTER,
)
MONITOR = closed(
    selector_=closed(matchLabels_=TEXTS),
    podTargetLabels={"type": "array", "items": TEXT},
    podMetricsEndpoints_={"type": "array", "items": closed(port_=TEXT, interval={"pattern": r"^\d+s$"})},
)
SPECS = {"RayCluster": ("ray.io/v1", CLUSTER), "RayJob": ("ray.io/v1", JOB),
         "PodMonitor": ("monitoring.coreos.com/v1", MONITOR)}  # fmt: skip


def custom(kind):
    version, spec = SPECS[kind]
    meta = closed(name_=TEXT, namespace_=TEXT)
    return closed(apiVersion_={"const": version}, kind_={"const": kind}, metadata_=meta, spec_=spec)


def templates():
    """Returns every pod template of the custom resources."""
    for name, document in DOCUMENTS.items():
        if document["kind"] not in ("RayCluster", "RayJob"):
            continue
        spec = document["spec"]
        if document["kind"] == "RayJob":
            yield f"{name} submitter", spec["submitterPodTemplate"]
            spec = spec["rayClusterSpec"]
        yield f"{name} head", spec["headGroupSpec"]["template"]
        yield from ((f"{name} {group['groupName']}", group["template"]) for group in spec["workerGroupSpecs"])


TEMPLATES = dict(templates())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document["kind"] not in CUSTOM])
def test_objects_are_as_kubernetes_defines_them(name, version):
    document = DOCUMENTS[name]
    assert faults(document, kubernetes(version, definition_of(document))) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_pods_of_ray_are_as_kubernetes_defines_them(name, version):
    assert faults(TEMPLATES[name], kubernetes(version, "core.v1.PodTemplateSpec")) == []


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document["kind"] in CUSTOM])
def test_custom_resources_have_the_fields_that_their_operators_know(name):
    assert faults(DOCUMENTS[name], custom(DOCUMENTS[name]["kind"])) == []


@pytest.mark.parametrize(
    ("name", "path", "said"),
    [
        ("Job data", ("spec", "template", "spec", "containers", 0, "cmd"), "'cmd' was unexpected"),
        ("NetworkPolicy deny-all", ("spec", "egres"), "'egres' was unexpected"),
        ("PodDisruptionBudget redis", ("spec", "minAvailabel"), "'minAvailabel' was unexpected"),
        ("StatefulSet redis", ("spec", "replicas"), "'?' is not of type"),
    ],
)
def test_a_field_that_is_misspelt_or_of_another_type_is_found(name, path, said):
    document = copy.deepcopy(DOCUMENTS[name])
    *above, last = path
    place = document
    for key in above:
        place = place[key]
    place[last] = "?"
    [fault] = faults(document, kubernetes(VERSIONS[-1], definition_of(document)))
    assert said in fault


def strict(schema):
    """Returns a custom resource definition's schema as the API server applies it with strict field validation."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        made.setdefault("additionalProperties", False)
    return made


@pytest.mark.skipif(not os.environ.get(CRDS), reason=f"{CRDS} names no folder with KubeRay's definitions")
@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document["kind"].startswith("Ray")])
def test_ray_resources_are_as_kuberay_defines_them(name):
    kind = DOCUMENTS[name]["kind"]
    [file] = Path(os.environ[CRDS]).glob(f"ray.io_{kind.lower()}s*.yaml")
    definition = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    assert faults(DOCUMENTS[name], schema) == []
    document = copy.deepcopy(DOCUMENTS[name])
    document["spec"]["rayVersoin"] = "2"
    assert len(faults(document, schema)) == 1
