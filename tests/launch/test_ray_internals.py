"""Internals of the installed Ray that `vaedist/launch/ray_internals.py` uses; a failure names the function there."""

import ast
import importlib
import inspect
import pickle
import tomllib
from pathlib import Path

import pytest
import ray
from packaging.requirements import Requirement

from vaedist.launch import ray_internals
from vaedist.launch.ray_internals import group_callback

ROOT = Path(__file__).parents[2]
FILE = "vaedist/launch/ray_internals.py"
CONTROLLER = "ray.train.v2._internal.execution.controller"

# (name in ray_internals, "module:attribute" of Ray, the parameters of the call, or None if it is not a function)
RELIED_ON = [
    ("find_head", "ray._private.services:canonicalize_bootstrap_address_or_die", ["addr"]),
    ("head_metadata", "ray._private.gcs_utils:create_gcs_channel", ["address"]),
    ("head_metadata", "ray._private.ray_constants:KV_NAMESPACE_CLUSTER", None),
    ("head_metadata", "ray._common.usage.usage_constants:CLUSTER_METADATA_KEY", None),
    ("head_metadata", "ray.core.generated.gcs_service_pb2:InternalKVGetRequest", None),
    ("head_metadata", "ray.core.generated.gcs_service_pb2_grpc:InternalKVGcsServiceStub", ["channel"]),
    ("check_versions", "ray._private.utils:check_version_info", ["cluster_metadata", "this_process_address"]),
    ("default_temp_folder", "ray._common.utils:get_default_system_temp_dir", []),
    ("loopback_only", "ray._private.ray_constants:ENABLE_RAY_CLUSTER", None),
    ("own_sessions", "ray._private.services:ConsolePopen", None),
    ("patient_start", "ray._private.services:get_node", ["gcs_address", "node_id"]),
    ("is_token_used", "ray._private.authentication.authentication_utils:is_token_auth_enabled", []),
    ("reload_authentication", "ray._raylet:Config.initialize", None),
    ("reload_authentication", "ray._raylet:AuthenticationTokenLoader.instance", None),
    ("reload_authentication", "ray._raylet:AuthenticationTokenLoader.reset_cache", None),
    ("ControlStore", "ray._raylet:GcsClient", None),
    ("ControlStore.live_nodes", "ray._raylet:InnerGcsClient.get_all_node_info", None),
    ("ControlStore.live_nodes", "ray.core.generated.gcs_pb2:GcsNodeInfo.GcsNodeState.ALIVE", None),
    ("ControlStore.drain", "ray._raylet:InnerGcsClient.drain_node", None),
    ("ControlStore.drain", "ray.core.generated.autoscaler_pb2:DRAIN_NODE_REASON_PREEMPTION", None),
    ("upload_limit", "ray._private.ray_constants:DASHBOARD_CLIENT_MAX_SIZE", None),
    ("upload_limit", "ray._private.runtime_env.packaging:GCS_STORAGE_MAX_SIZE", None),
    ("job_client", "ray.job_submission:JobSubmissionClient._do_request", ["self", "method", "endpoint", "**kwargs"]),
    ("withhold_from_trials", "ray.tune.execution.class_cache:ENV_VARS_TO_PROPAGATE", None),
    (
        "data_parallel_trainer",
        "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer",
        ["train_loop_per_worker", "train_loop_config", "backend_config", "scaling_config", "run_config"],
    ),
    ("preemption_notice", "ray.train.v2._internal.execution.context:get_train_context", []),
    ("preemption_notice", "ray.train.v2._internal.execution.preemption:PreemptionContext.preemption_info", None),
    (
        "group_callback",
        "ray.train.v2._internal.execution.callback:ControllerCallback.after_controller_state_update",
        ["self", "previous_state", "current_state"],
    ),
    ("group_callback", f"{CONTROLLER}.state:RestartingState", ["training_failed_error"]),
    ("group_callback", f"{CONTROLLER}.state:ReschedulingState", ["training_failed_error"]),
    ("group_callback", f"{CONTROLLER}.state:ResizingState", ["scaling_decision"]),
    (
        "group_callback",
        "ray.train.v2._internal.execution.scaling_policy.scaling_policy:ResizeDecision",
        ["num_workers"],
    ),
    ("is_preemption", "ray.train:WorkerGroupError", ["worker_failures"]),
    ("is_preemption", "ray.train:PreemptionError", None),
    ("is_preemption", "ray.exceptions:RayActorError.preempted", None),
    (
        "patch_controller",
        "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client"
        ":AUTOSCALING_REQUESTS_EXPIRE_TIME_S",
        None,
    ),
    ("patch_controller", "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleaner", None),
    ("_ending_cleaner", f"{CONTROLLER}.placement_group_cleaner:PlacementGroupCleaner._monitor_loop", ["self"]),
    ("_ending_cleaner", f"{CONTROLLER}.placement_group_cleaner:is_actor_alive", ["actor_id", "timeout"]),
    ("is_actor_alive", "ray._private.state:actors", ["actor_id"]),
]

# (name in ray_internals, "module:function" of Ray, words that its source must contain for the patch to have an effect)
ACTED_ON = [
    ("loopback_only", "ray._private.services:get_node_ip_address", "ray_constants.ENABLE_RAY_CLUSTER"),
    ("own_sessions", "ray._private.services:start_ray_process", "process = ConsolePopen("),
    ("patient_start", "ray._private.node:Node.__init__", "raylet_start_wait_time_s = 30"),
    ("withhold_from_trials", "ray.tune.execution.class_cache:_ActorClassCache.get", "in ENV_VARS_TO_PROPAGATE"),
    (
        "patch_controller",
        "ray.train.v2._internal.callbacks.placement_group_callback"
        ":PlacementGroupCleanerCallback.after_controller_start",
        "(PlacementGroupCleaner)",
    ),
    (
        "patch_controller",
        "ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client"
        ":TrainAutoscalingCoordinatorClient",
        "expire_after_s=AUTOSCALING_REQUESTS_EXPIRE_TIME_S",
    ),
    (
        "_ending_cleaner",
        f"{CONTROLLER}.placement_group_cleaner:PlacementGroupCleaner._monitor_loop",
        "is_actor_alive(\n                    actor_id=self._controller_actor_id,\n                    timeout=",
    ),
    ("_ending_cleaner", f"{CONTROLLER}.placement_group_cleaner:PlacementGroupCleaner", "self._stop_event.is_set()"),
    ("job_client", "ray.job_submission:JobSubmissionClient._do_request", "requests.request("),
    ("group_callback", f"{CONTROLLER}:TrainController._set_state", '"after_controller_state_update"'),
]


def look_at(ours, theirs, what):
    return f"Ray {ray.__version__}: {theirs} {what}: look at `{ours}` in {FILE}, checked on {ray_internals.CHECKED_ON}"


def attribute(ours, theirs):
    """Returns the attribute of Ray, or fails with the names of both."""
    module, _, path = theirs.partition(":")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        if isinstance(error, AttributeError) and name in getattr(found, "__annotations__", {}):
            return None  # a field of a data class
        pytest.fail(look_at(ours, theirs, f"is not there ({error})"))
    return found


def parameters(callable_):
    kinds = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    return [kinds.get(p.kind, "") + p.name for p in inspect.signature(callable_).parameters.values()]


@pytest.mark.parametrize(("ours", "theirs", "expected"), RELIED_ON, ids=lambda value: str(value).rpartition(".")[2])
def test_ray_has_everything_that_is_used(ours, theirs, expected):
    found = attribute(ours, theirs)
    if expected is not None:
        missing = [name for name in expected if name not in parameters(found)]
        assert not missing, look_at(ours, theirs, f"takes {parameters(found)}, without {missing}")


@pytest.mark.parametrize(("ours", "theirs", "words"), ACTED_ON, ids=lambda value: str(value).rpartition(".")[2])
def test_patches_of_ray_have_an_effect(ours, theirs, words):
    assert words in inspect.getsource(attribute(ours, theirs)), look_at(ours, theirs, f"does not hold {words!r}")


def test_the_tables_name_every_use():
    """The tables contain every import of Ray's internals, under the function that uses it."""
    listed = {(ours.partition(".")[0], theirs.partition(":")[0]) for ours, theirs, _ in (*RELIED_ON, *ACTED_ON)}
    for definition in ast.parse((ROOT / FILE).read_text()).body:
        for node in ast.walk(definition):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ray"):
                for name in node.names:
                    module = f"{node.module}.{name.name}"
                    uses = {(definition.name, node.module), (definition.name, module)}
                    assert uses & listed or node.module == "ray.exceptions", f"{definition.name}: {module}"


@pytest.mark.parametrize("ours", sorted({ours.partition(".")[0] for ours, _, _ in RELIED_ON} - {"_ending_cleaner"}))
def test_every_function_documents_when_it_becomes_unnecessary(ours):
    assert "Not needed once " in inspect.getdoc(getattr(ray_internals, ours))


def test_the_release_that_was_checked_is_the_one_that_is_pinned_and_installed():
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    assert pinned == f"ray=={ray_internals.CHECKED_ON}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = next(need.specifier for need in map(Requirement, project["dependencies"]) if need.name == "ray")
    major, minor = map(int, ray_internals.CHECKED_ON.split(".")[:2])
    assert f"{major}.{minor}.0" in allowed
    assert f"{major}.{minor + 1}.0" not in allowed, "pyproject.toml allows a Ray on which nothing was checked"
    assert ray.__version__ == ray_internals.CHECKED_ON, (
        f"{FILE} was checked on Ray {ray_internals.CHECKED_ON}: run make test, make test-cluster and make test-faults "
        f"on Ray {ray.__version__}, then change CHECKED_ON, constraints.txt and the bound in pyproject.toml"
    )


class Listener:
    """Records the messages that it receives."""

    def __init__(self):
        self.heard = []

    def group_preempted(self):
        self.heard.append("preempted")

    def group_failed(self, error):
        self.heard.append(("failed", error))

    def group_waits(self):
        self.heard.append("waits")

    def group_resizes(self, workers):
        self.heard.append(("resizes", workers))


def test_states_of_the_controller_reach_the_listener():
    from ray.train import PreemptionError, WorkerGroupError
    from ray.train.v2._internal.execution.controller import state
    from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
    from ray.train.v2.api.preemption import PreemptionInfo

    listener, running = Listener(), state.RunningState()
    callback = group_callback(listener)
    failure = WorkerGroupError("a worker died", {0: ValueError("here")})
    waiting = state.ReschedulingState(failure)
    callback.after_controller_state_update(running, state.RestartingState(failure))
    callback.after_controller_state_update(state.SchedulingState(None), waiting)
    callback.after_controller_state_update(waiting, state.ReschedulingState(failure))
    callback.after_controller_state_update(running, state.ResizingState(ResizeDecision(3, {"CPU": 1})))
    preempted = PreemptionError(PreemptionInfo(None, {}), None)
    callback.after_controller_state_update(running, state.RestartingState(preempted))
    assert listener.heard == [("failed", failure), "waits", ("resizes", 3), "preempted"]


def test_patches_are_applied_where_the_callback_is_unpickled(monkeypatch):
    from ray import cloudpickle
    from ray.train.v2._internal.callbacks import placement_group_callback
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

    monkeypatch.setattr(
        placement_group_callback, "PlacementGroupCleaner", placement_group_callback.PlacementGroupCleaner
    )
    monkeypatch.setattr(autoscaling_coordinator_client, "AUTOSCALING_REQUESTS_EXPIRE_TIME_S", 180)
    pickled = cloudpickle.dumps(group_callback(Listener()))
    assert placement_group_callback.PlacementGroupCleaner.__name__ == "PlacementGroupCleaner"
    assert isinstance(pickle.loads(pickled), ControllerCallback)
    assert placement_group_callback.PlacementGroupCleaner.__name__ == "EndingCleaner"
    assert autoscaling_coordinator_client.AUTOSCALING_REQUESTS_EXPIRE_TIME_S == ray_internals.REQUEST_EXPIRY_SECONDS
