"""The Kubernetes manifests: consistency with each other, and the rules of a cluster for pods."""

from pathlib import Path

import pytest
import yaml
from ray._private.utils import resolve_object_store_memory

from vaedist.cli import main
from vaedist.launch.jobs.submission import STOP_SECONDS

FOLDER = Path(__file__).parents[2] / "cluster" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
DOCUMENTS = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]
# Labels that KubeRay sets; it generates the name of a RayJob's cluster.
NODE_TYPE, CLUSTER = "ray.io/node-type", "ray.io/cluster"
CLUSTERS = {one["metadata"]["name"]: one["metadata"]["name"] for one in DOCUMENTS if one["kind"] == "RayCluster"}
GIB = 2**30


def of_kind(kind):
    return [document for document in DOCUMENTS if document["kind"] == kind]


def clusters():
    """Returns the spec of every Ray cluster, by the name of its object."""
    made = {cluster["metadata"]["name"]: cluster["spec"] for cluster in of_kind("RayCluster")}
    return made | {job["metadata"]["name"]: job["spec"]["rayClusterSpec"] for job in of_kind("RayJob")}


def pods():
    """Returns (name, template) of every pod, with all labels that it will have."""
    for name, spec in clusters().items():
        for kind, groups in (("head", [spec["headGroupSpec"]]), ("worker", spec["workerGroupSpecs"])):
            for group in groups:
                template = group["template"]
                labels = template["metadata"]["labels"] | {
                    NODE_TYPE: kind,
                    CLUSTER: CLUSTERS.get(name, f"{name}-x7k2p"),
                }
                yield f"{name} {kind}", template | {"metadata": template["metadata"] | {"labels": labels}}
    for job in of_kind("RayJob"):
        yield f"{job['metadata']['name']} submitter", job["spec"]["submitterPodTemplate"]
    for other in of_kind("StatefulSet") + of_kind("Job"):
        yield other["metadata"]["name"], other["spec"]["template"]


PODS = dict(pods())
CONTAINERS = {
    f"{name} {container['name']}": container for name, pod in PODS.items() for container in pod["spec"]["containers"]
}


def selects(selector, labels):
    """Returns True if a selector selects a pod; fails for an unknown kind of selector."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    assert all(one["operator"] == "In" for one in selector.get("matchExpressions", []))
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def labels_of(pod):
    return PODS[pod]["metadata"]["labels"]


def rules(pod, direction, peers):
    """Returns (peer, ports) of every rule of the policies for a pod in a direction; None for all ports."""
    for policy in of_kind("NetworkPolicy"):
        if selects(policy["spec"]["podSelector"], labels_of(pod)):
            for rule in policy["spec"].get(direction, []):
                ports = {port["port"] for port in rule["ports"]} if "ports" in rule else None
                yield from ((peer, ports) for peer in rule[peers])


def callers(pod):
    return list(rules(pod, "ingress", "from"))


def called(pod):
    return list(rules(pod, "egress", "to"))


def ports_between(caller, other):
    """Returns the ports of `other` to which `caller` may connect, by the policies of both; None for all."""

    def allowed(pod, kind, found, labels):
        specs = [policy["spec"] for policy in of_kind("NetworkPolicy")]
        covering = [spec for spec in specs if selects(spec["podSelector"], labels_of(pod))]
        if not any(kind in spec["policyTypes"] for spec in covering):
            return None  # nothing is refused
        pods = [(peer["podSelector"], ports) for peer, ports in found if set(peer) == {"podSelector"}]
        inside = [ports for selector, ports in pods if selects(selector, labels)]
        return None if None in inside else set().union(*inside)

    out = allowed(caller, "Egress", called(caller), labels_of(other))
    into = allowed(other, "Ingress", callers(other), labels_of(caller))
    return into if out is None else out if into is None else out & into


def test_all_kinds_are_there_and_all_in_one_namespace():
    kinds = "ConfigMap Job Namespace NetworkPolicy PersistentVolumeClaim PodDisruptionBudget PodMonitor PriorityClass "
    kinds += "RayCluster RayJob Service StatefulSet"
    assert {document["kind"] for document in DOCUMENTS} == set(kinds.split())
    [namespace] = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    everywhere = [namespace, *of_kind("PriorityClass")]
    others = [document["metadata"]["namespace"] for document in DOCUMENTS if document not in everywhere]
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
def test_tokens_are_required_and_the_head_has_no_cpus(cluster):
    spec = clusters()[cluster]
    assert spec["authOptions"] == {"mode": "token", "secretName": "vaedist-ray-token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("cluster", clusters())
def test_workers_have_a_gpu_and_pods_are_not_restarted_in_place(cluster):
    spec = clusters()[cluster]
    [group] = spec["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for part in (spec["headGroupSpec"], group):  # autoscaler v2 requires it
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


def test_the_permanent_cluster_keeps_its_state_in_this_redis():
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


def test_redis_accepts_no_command_without_its_password():
    [config] = of_kind("ConfigMap")
    assert "include /run/redis/password.conf" in config["data"]["redis.conf"]
    assert "requirepass" in CONTAINERS["redis redis"]["command"][-1]


def test_no_secret_is_written_down():
    assert of_kind("Secret") == []
    values = [one.get("value") for container in CONTAINERS.values() for one in container.get("env", [])]
    assert set(values) <= {None}


def test_connections_that_no_policy_allows_are_refused_in_both_directions():
    specs = [policy["spec"] for policy in of_kind("NetworkPolicy")]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in specs


@pytest.mark.parametrize("pod", PODS)
def test_only_clients_the_operator_and_prometheus_connect_from_outside(pod):
    allowed = {"vaedist-clients": {8265}, "kuberay-system": {8265}, "monitoring": {8080}}
    for peer, ports in callers(pod):
        assert "ipBlock" not in peer
        if "namespaceSelector" in peer:
            assert ports == allowed[peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]]


@pytest.mark.parametrize("pod", PODS)
def test_pods_connect_to_https_and_names_outside_and_not_to_the_metadata_service(pod):
    outside = [(peer, ports) for peer, ports in called(pod) if "podSelector" not in peer]
    assert bool(outside) == (pod != "redis")
    for peer, ports in outside:
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
            assert peer["ipBlock"]["except"] == ["169.254.0.0/16"]
            assert ports == {443, 6443}
        else:
            assert ports == {53}


def of_cluster(pod):
    """Returns the name of the cluster to which a pod belongs, or None."""
    name = pod.partition(" ")[0]
    return name if name in clusters() else None


@pytest.mark.parametrize("caller", PODS)
@pytest.mark.parametrize("other", PODS)
def test_nodes_of_a_cluster_connect_only_to_nodes_of_the_same_cluster(caller, other):
    if of_cluster(caller) and of_cluster(caller) == of_cluster(other):
        assert ports_between(caller, other) is None
    elif (caller, other) == ("vaedist head", "redis"):
        assert ports_between(caller, other) == {6379}
    else:
        assert ports_between(caller, other) == set()


def test_a_cluster_of_another_name_in_the_namespace_reaches_nothing():
    PODS["mine head"] = {"metadata": {"labels": {"app": "vaedist", NODE_TYPE: "head", CLUSTER: "mine"}}}
    try:
        for pod in set(PODS) - {"mine head"}:
            assert ports_between("mine head", pod) == ports_between(pod, "mine head") == set()
    finally:
        del PODS["mine head"]


def test_only_heads_accept_jobs_and_all_nodes_expose_metrics():
    for pod in PODS:
        outside = [ports for peer, ports in callers(pod) if "namespaceSelector" in peer]
        expected = {"head": [{8265}, {8265}, {8080}], "worker": [{8080}]}
        assert outside == expected.get(pod.rpartition(" ")[2], [])


def size(text):
    return float(text.removesuffix("Gi")) * GIB


@pytest.mark.parametrize("cluster", clusters())
def test_the_object_store_fits_into_shared_memory_as_ray_counts_it(cluster):
    spec = clusters()[cluster]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        params, pod = group["rayStartParams"], group["template"]["spec"]
        [shm] = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
        store = resolve_object_store_memory(
            int(size(pod["containers"][0]["resources"]["limits"]["memory"])),
            int(params["object-store-memory"]) if "object-store-memory" in params else None,
        )
        assert store <= size(shm["sizeLimit"]) <= size(pod["containers"][0]["resources"]["limits"]["memory"]) / 3


@pytest.mark.parametrize("pod", [name for name in PODS if name.endswith("worker")])
def test_workers_fit_machines_of_eight_cpus_of_one_kind_and_have_time_to_save(pod):
    spec = PODS[pod]["spec"]
    [container] = spec["containers"]
    assert float(container["resources"]["requests"]["cpu"]) < 8
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "REPLACE-GPU"}
    words = container["lifecycle"]["preStop"]["exec"]["command"]
    command = main.commands["cluster"].commands["drain"]
    assert words[:3] == ["vaedist", "cluster", "drain"]
    given = command.make_context("drain", words[3:]).params
    assert given["wait"] is True
    assert given["seconds"] + 20 < spec["terminationGracePeriodSeconds"]


def test_a_job_asks_for_the_cpus_that_its_pods_have_and_has_time_to_save_when_it_is_stopped():
    [job] = of_kind("RayJob")
    [container] = clusters()[job["metadata"]["name"]]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    words = job["spec"]["entrypoint"].split()
    assert f"scaling.cpus_per_worker={limits['cpu']}" in words
    assert f"scaling.gpus_per_worker={limits['nvidia.com/gpu']}" in words
    variables = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}


def test_the_data_job_writes_to_the_path_from_which_training_reads():
    [data], [job] = of_kind("Job"), of_kind("RayJob")
    [container] = data["spec"]["template"]["spec"]["containers"]
    assert container["args"][:4] == ["vaedist", "data", "prepare", "cifar10"]
    out = main.commands["data"].commands["prepare"].make_context("prepare", container["args"][3:]).params["out"]
    assert f"data.path={out}" in job["spec"]["entrypoint"].split()
    assert any(str(out).startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"])


@pytest.mark.parametrize("pod", [name for name in PODS if name.endswith("head") or name == "redis"])
def test_heads_and_redis_are_not_evicted_and_have_separate_budgets(pod):
    budgets = [
        one["spec"] for one in of_kind("PodDisruptionBudget") if selects(one["spec"]["selector"], labels_of(pod))
    ]
    assert [one["minAvailable"] for one in budgets] == [1]
    taken = [name for name in PODS if selects(budgets[0]["selector"], labels_of(name))]
    assert taken == [pod]
    assert PODS[pod]["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_heads_have_priority_and_workers_preempt_no_pods():
    classes = {one["metadata"]["name"]: one for one in of_kind("PriorityClass")}
    for pod, template in PODS.items():
        if pod.endswith(("head", "worker")) or pod == "redis":
            kind = "worker" if pod.endswith("worker") else "head"
            assert template["spec"]["priorityClassName"] == f"vaedist-{kind}"
    assert classes["vaedist-head"]["value"] > classes["vaedist-worker"]["value"] > 0
    assert classes["vaedist-worker"]["preemptionPolicy"] == "Never"


def test_metrics_are_scraped_from_the_port_that_kuberay_gives_ray():
    [monitor] = of_kind("PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    for pod in PODS:
        if pod.endswith(("head", "worker")):
            assert selects(monitor["spec"]["selector"], labels_of(pod))
            ports = {port["name"]: port["containerPort"] for port in PODS[pod]["spec"]["containers"][0]["ports"]}
            assert ports[endpoint["port"]] == 8080
