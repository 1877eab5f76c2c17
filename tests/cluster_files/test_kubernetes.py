"""The Kubernetes manifests: what they must agree on with each other, and what a cluster's rules ask of pods."""

from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "cluster" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
DOCUMENTS = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]
NODE_TYPE = "ray.io/node-type"  # a label that KubeRay sets


def of_kind(kind):
    return [document for document in DOCUMENTS if document["kind"] == kind]


def clusters():
    """The spec of every Ray cluster, by the name of the object that holds it."""
    made = {cluster["metadata"]["name"]: cluster["spec"] for cluster in of_kind("RayCluster")}
    return made | {job["metadata"]["name"]: job["spec"]["rayClusterSpec"] for job in of_kind("RayJob")}


def pods():
    """(name, template) of every pod, labelled as it will be."""
    for name, spec in clusters().items():
        for kind, groups in (("head", [spec["headGroupSpec"]]), ("worker", spec["workerGroupSpecs"])):
            for group in groups:
                template = group["template"]
                labels = template["metadata"]["labels"] | {NODE_TYPE: kind}
                yield f"{name} {kind}", template | {"metadata": {"labels": labels}}
    for job in of_kind("RayJob"):
        yield f"{job['metadata']['name']} submitter", job["spec"]["submitterPodTemplate"]
    for stateful in of_kind("StatefulSet"):
        yield stateful["metadata"]["name"], stateful["spec"]["template"]


PODS = dict(pods())
CONTAINERS = {
    f"{name} {container['name']}": container for name, pod in PODS.items() for container in pod["spec"]["containers"]
}


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def callers(pod):
    """(peer, ports) of every rule that lets somebody connect to the pod; None for all ports."""
    for policy in of_kind("NetworkPolicy"):
        if selects(policy["spec"]["podSelector"], PODS[pod]["metadata"]["labels"]):
            for rule in policy["spec"].get("ingress", []):
                ports = {port["port"] for port in rule["ports"]} if "ports" in rule else None
                yield from ((peer, ports) for peer in rule["from"])


def test_all_kinds_are_there_and_all_in_one_namespace():
    kinds = "ConfigMap Namespace NetworkPolicy PersistentVolumeClaim RayCluster RayJob Service StatefulSet"
    assert {document["kind"] for document in DOCUMENTS} == set(kinds.split())
    [namespace] = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [document["metadata"]["namespace"] for document in DOCUMENTS if document is not namespace]
    assert set(others) == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("container", CONTAINERS)
def test_requests_equal_limits(container):
    resources = CONTAINERS[container]["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["requests"])


@pytest.mark.parametrize("cluster", clusters())
def test_the_autoscaler_is_the_second_with_equal_requests_and_limits(cluster):
    spec = clusters()[cluster]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["resources"]["requests"] == spec["autoscalerOptions"]["resources"]["limits"]


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_as_the_namespaces_rules_ask(pod):
    spec = PODS[pod]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    contexts = [container["securityContext"] for container in spec["containers"]]
    contexts += [cluster["autoscalerOptions"]["securityContext"] for cluster in clusters().values()]
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("cluster", clusters())
def test_tokens_are_asked_for_and_the_head_has_no_cpus(cluster):
    spec = clusters()[cluster]
    assert spec["authOptions"] == {"mode": "token", "secretName": "vaedist-ray-token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("cluster", clusters())
def test_workers_have_a_gpu_and_pods_are_not_restarted_in_place(cluster):
    spec = clusters()[cluster]
    [group] = spec["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for part in (spec["headGroupSpec"], group):  # autoscaler v2 wants it
        assert part["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("pod", [name for name in PODS if name.endswith(("head", "worker"))])
def test_ray_nodes_have_shared_memory_and_the_shared_folder(pod):
    spec = PODS[pod]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    [claim] = of_kind("PersistentVolumeClaim")
    assert mounts["/mnt/vaedist"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_standing_cluster_keeps_its_state_in_the_redis_that_is_here():
    options = clusters()["vaedist"]["gcsFaultToleranceOptions"]
    [service], [stateful] = of_kind("Service"), of_kind("StatefulSet")
    port = service["spec"]["ports"][0]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port['port']}"
    assert service["spec"]["selector"] == stateful["spec"]["selector"]["matchLabels"]
    assert stateful["spec"]["selector"]["matchLabels"] == stateful["spec"]["template"]["metadata"]["labels"]
    assert stateful["spec"]["serviceName"] == service["metadata"]["name"]
    redis = CONTAINERS["redis redis"]
    assert port["targetPort"] in {named["name"] for named in redis["ports"]}
    [password] = redis["env"]
    assert password["valueFrom"] == options["redisPassword"]["valueFrom"]
    mounts = {mount["name"] for mount in redis["volumeMounts"]}
    volumes = [volume["name"] for volume in stateful["spec"]["template"]["spec"]["volumes"]]
    assert mounts == {*volumes, stateful["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]}


def test_redis_takes_no_command_without_its_password():
    [config] = of_kind("ConfigMap")
    assert "include /run/redis/password.conf" in config["data"]["redis.conf"]
    assert "requirepass" in CONTAINERS["redis redis"]["command"][-1]


def test_no_secret_is_written_down():
    assert of_kind("Secret") == []
    values = [one.get("value") for container in CONTAINERS.values() for one in container.get("env", [])]
    assert set(values) <= {None}


def test_pods_that_no_other_policy_covers_are_reached_by_nobody():
    specs = [policy["spec"] for policy in of_kind("NetworkPolicy")]
    assert {"podSelector": {}, "policyTypes": ["Ingress"]} in specs


@pytest.mark.parametrize("pod", PODS)
def test_nobody_connects_whom_no_policy_names(pod):
    covering = [
        policy["spec"]["policyTypes"]
        for policy in of_kind("NetworkPolicy")
        if selects(policy["spec"]["podSelector"], PODS[pod]["metadata"]["labels"])
    ]
    assert ["Ingress"] in covering
    for peer, ports in callers(pod):
        assert "ipBlock" not in peer
        if "namespaceSelector" in peer:
            assert ports == {8265}
            assert peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] in {
                "vaedist-clients", "kuberay-system",
            }  # fmt: skip
        else:
            assert peer["podSelector"]["matchLabels"] == {"app": "vaedist"}


@pytest.mark.parametrize("pod", [name for name in PODS if name != "redis"])
def test_ray_nodes_and_the_submitter_reach_each_other_on_all_ports_and_redis_on_its_own(pod):
    labels = PODS[pod]["metadata"]["labels"]
    for other in PODS:
        ports = [
            ports
            for peer, ports in callers(other)
            if selects(peer.get("podSelector", {"matchLabels": {"": ""}}), labels)
        ]
        assert ports == ([{6379}] if other == "redis" else [None])


def test_jobs_come_in_at_heads_only():
    for pod in PODS:
        outside = [peer for peer, _ in callers(pod) if "namespaceSelector" in peer]
        assert len(outside) == (2 if pod.endswith("head") else 0)
