"""Everything that vaedist uses of Ray's internals, and every change that it makes to Ray; checked on Ray 2.60.0.

Ray may rename or change any of this in a release, so no other module imports it, and pyproject.toml bounds Ray from
above. `tests/launch/test_ray_internals.py` compares the installed Ray with what is relied on here, and names the
function of this module to look at. To move to another release: run that test, then `make test`, `make test-cluster` and
`make test-faults`, then change `CHECKED_ON` and the bound. Each function says what would make it unnecessary.

Ray is imported inside the functions, as importing Ray Train takes a second, which only some processes need.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import grpc

CHECKED_ON = "2.60.0"

# A run tells Ray every 20 s which resources it wants. If its controller dies, they count as taken until the last
# request expires, 180 s by Ray's default: an elastic run that is resumed finds no room until then.
REQUEST_EXPIRY_SECONDS = 60


# Clusters


def find_head(address: str | None) -> str:
    """Returns HOST:PORT of a cluster's head: of `address`, of RAY_ADDRESS, or of the one that this machine is part of.

    Not needed once `ray.init` or a public function resolves an address without connecting.

    Raises:
        ConnectionError: no cluster runs, or several do.
        ValueError: the address is none.
    """
    from ray._private import services

    return services.canonicalize_bootstrap_address_or_die(address)


def head_metadata(address: str, timeout: float) -> bytes:
    """Asks the head at HOST:PORT, once, for the versions that its cluster runs; returns JSON, empty if it has none.

    Not needed once Ray's public client gives up on what is not a head within a few seconds, and says why.

    Raises:
        grpc.RpcError: it does not answer, or refuses.
    """
    from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
    from ray._private.gcs_utils import create_gcs_channel
    from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
    from ray.core.generated.gcs_service_pb2 import InternalKVGetRequest
    from ray.core.generated.gcs_service_pb2_grpc import InternalKVGcsServiceStub

    request = InternalKVGetRequest(key=CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER)
    channel: grpc.Channel = create_gcs_channel(address)
    try:
        return InternalKVGcsServiceStub(channel).InternalKVGet(request, timeout=timeout).value
    finally:
        with suppress(AttributeError):  # of gRPC, where the channel never connected
            channel.close()


def check_versions(metadata: dict[str, str]) -> None:
    """Compares a cluster's versions of Ray and Python with those of this process.

    Not needed once `ray.init` checks them before it starts to connect.

    Raises:
        RuntimeError: they differ.
    """
    from ray._private.utils import check_version_info

    check_version_info(metadata, "here")


def default_temp_folder() -> str:
    """Returns the folder below which Ray puts its sessions, and so its Unix sockets.

    Not needed once Ray refuses a path that is too long for its sockets in one line, before it starts anything.
    """
    from ray._common.utils import get_default_system_temp_dir

    return get_default_system_temp_dir()


@contextmanager
def loopback_only() -> Iterator[None]:
    """Patch: a Ray that is started meanwhile takes 127.0.0.1 as this machine's address, and listens there alone.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 says the same to the processes that Ray starts, but this one read the variable
    when it imported Ray. Not needed once `ray.init` takes the node's address: see whether `ray.init(address="local",
    _node_ip_address="127.0.0.1")` listens on nothing else, as tests/launch/test_sockets.py shows.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


# Authentication


def is_token_used() -> bool:
    """Returns True if this process shows a token to clusters.

    Not needed once a refusal by Ray says whether a token was shown.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return is_token_auth_enabled()


def reload_authentication() -> None:
    """Has Ray read RAY_AUTH_MODE and the token's variables again, which it reads when it is imported.

    Not needed once `ray.init` and Ray's clients take a token, or read the variables when they connect.
    """
    from ray import _raylet

    raylet: Any = _raylet  # its names are made in Cython, unseen by a type checker
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


# Nodes


class ControlStore:
    """Client of a cluster's control store, for a process that does not join the cluster.

    Not needed once `ray drain-node` has a counterpart in Python.

    Args:
        address: HOST:PORT of the head.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, address: str, timeout: float) -> None:
        from ray import _raylet

        raylet: Any = _raylet
        self.address, self._timeout = address, timeout
        self._client = raylet.GcsClient(address=address)

    def live_nodes(self) -> list[tuple[str, str]]:
        """Returns the ID and the address of each live node."""
        from ray.core.generated.gcs_pb2 import GcsNodeInfo

        alive = GcsNodeInfo.GcsNodeState.ALIVE
        nodes = self._client.get_all_node_info(timeout=self._timeout, state_filter=alive)
        return [(identity.hex(), node.node_manager_address) for identity, node in nodes.items()]

    def drain(self, node: str, reason: str, deadline: float) -> str | None:
        """Announces that a node is about to be preempted; returns Ray's reason if it refuses.

        Args:
            node: its ID.
            reason: in words, for Ray's records.
            deadline: UNIX time.
        """
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        kind = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, refusal = self._client.drain_node(node, kind, reason, int(deadline * 1000), self._timeout)
        return None if accepted else refusal


# Jobs


def upload_limit() -> int:
    """Returns how many bytes of code Ray's dashboard takes in one upload, and its control store in one package.

    Not needed once Ray's job client refuses more in one line.
    """
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE)


def job_client(address: str, timeout: tuple[float, float]) -> Any:
    """Returns Ray's `JobSubmissionClient` of a dashboard, with time limits, and without its log lines on uploads.

    Not needed once the client takes a timeout of its own: Ray's waits for an answer without end.

    Args:
        address: URL of the dashboard.
        timeout: seconds to connect, and to be answered.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": timeout} | options)

    client = Client(address)
    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)  # set to INFO when they are imported
    return client


# Ray Tune


def withhold_from_trials(names: Iterable[str]) -> None:
    """Patch: Ray Tune does not copy these environment variables from here into the runtime environments of trials.

    Ray writes runtime environments into its logs and shows them in its dashboard, and among the variables are keys of
    stores. Not needed once `ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE` holds no secrets.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE -= set(names)


# Ray Train


def data_parallel_trainer() -> Any:
    """Returns the class below `TorchTrainer` and `TensorflowTrainer`, which starts any function on a group of workers.

    Not needed once `ray.train` exports it for Ray Train V2.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return DataParallelTrainer


def preemption_notice() -> Any | None:
    """Returns, in a worker, Ray Train's `PreemptionInfo` of its group, None while no node is to be preempted.

    Not needed once `ray.train.get_preemption_info` does not wait for all workers: only the one that saves asks.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info


class GroupListener(Protocol):
    """Reacts to the end and the restart of worker groups, in the process of a run's controller."""

    def group_preempted(self) -> None:
        """Called when a group ended because its machines were preempted."""

    def group_failed(self, error: Exception) -> None:
        """Called when a group failed, before the next one is started; an exception ends the run."""

    def group_waits(self) -> None:
        """Called once when there is no room for the next group."""

    def group_resizes(self, workers: int) -> None:
        """Called before a sound group is replaced by one of another size."""


def group_callback(listener: GroupListener) -> Any:
    """Returns a callback for Ray Train's `RunConfig` that passes the states of the controller on to a listener.

    Unpickled in the controller's process, it also applies `patch_controller` there, before training starts.

    `after_controller_state_update` is used for resizes, too, not `before_controller_execute_resize_decision`: Ray calls
    that before every start of a group, the first and those after failures, and it does not say which one it is.

    Not needed once a public callback, such as `ray.train.UserCallback`, has hooks for restarts and resizes.
    """
    from ray.train.v2._internal.execution import callback
    from ray.train.v2._internal.execution.controller import state

    class StateCallback(callback.ControllerCallback):
        def __reduce__(self) -> tuple[Any, ...]:
            return _callback_in_controller, (listener,)

        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            match current_state:
                case state.RestartingState(training_failed_error=error) if is_preemption(error):
                    listener.group_preempted()
                case state.RestartingState(training_failed_error=error):
                    listener.group_failed(error)
                case state.ReschedulingState() if not isinstance(previous_state, state.ReschedulingState):
                    listener.group_waits()
                case state.ResizingState():
                    listener.group_resizes(current_state.scaling_decision.num_workers)

    return StateCallback()


def _callback_in_controller(listener: GroupListener) -> Any:
    """Unpickles a `group_callback` in the controller's process."""
    patch_controller()
    return group_callback(listener)


def is_preemption(error: BaseException) -> bool:
    """Returns True if a group ended because machines were preempted, announced to Ray before or known by it since.

    Not needed once Ray Train raises `PreemptionError` for actors that died on a preempted node, too.
    """
    from ray.exceptions import RayActorError
    from ray.train import PreemptionError, WorkerGroupError

    if isinstance(error, WorkerGroupError):
        deaths = [getattr(failure, "health_check_failure", failure) for failure in error.worker_failures.values()]
        return any(isinstance(death, RayActorError) and death.preempted for death in deaths)
    return isinstance(error, PreemptionError)


def patch_controller() -> None:
    """Patch: in a controller's process, requests for resources expire sooner, and `EndingCleaner` frees its workers.

    Not needed once Ray Train takes the expiry from a variable, and its `PlacementGroupCleaner` ends its own process and
    asks the control store for the controller's state: see `_ending_cleaner`.
    """
    from ray.train.v2._internal.callbacks import placement_group_callback
    from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

    autoscaling_coordinator_client.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = REQUEST_EXPIRY_SECONDS
    placement_group_callback.PlacementGroupCleaner = _ending_cleaner()


def _ending_cleaner() -> type:
    """Returns the actor that frees the placement group of a run whose controller died, and then ends its own process.

    Ray's own ends only the thread that watches: 115 MB stay on the head for every run that was killed. And it asks the
    dashboard whether the controller lives, which some clusters do not have, and which does not list a new actor at
    once: a new run would be taken for dead, and no longer be watched.
    """
    import ray
    from ray.train.v2._internal.execution.controller import placement_group_cleaner

    class EndingCleaner(placement_group_cleaner.PlacementGroupCleaner):
        def _monitor_loop(self) -> None:
            placement_group_cleaner.is_actor_alive = is_actor_alive  # in the actor's own process
            try:
                super()._monitor_loop()
            finally:
                if not self._stop_event.is_set():
                    ray.kill(ray.get_runtime_context().current_actor)

    return EndingCleaner


def is_actor_alive(actor_id: str, timeout: float) -> bool:
    """Returns True unless Ray's control store, which knows an actor at once, says that it has ended.

    Not needed once `ray.util.state.get_actor` asks the control store and not the dashboard.

    Args:
        actor_id: in hexadecimal digits.
        timeout: ignored; Ray's own function, which this one replaces, has it.
    """
    from ray._private import state
    from ray.exceptions import RayError

    try:
        return state.actors(actor_id).get("State", "DEAD") != "DEAD"
    except (RayError, RuntimeError):
        return True
