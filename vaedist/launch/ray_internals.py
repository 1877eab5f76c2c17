"""All uses of Ray's internals, and all patches of Ray; checked with Ray 2.60.0.

Ray may rename or change any of them in a release. No other module uses internals of Ray, and pyproject.toml has an
upper bound for Ray. `tests/launch/test_ray_internals.py` checks the installed Ray for everything that this module
relies on, and names the function to look at. To move to another release: run that test, then `make test`, `make
test-cluster` and `make test-faults`, then change `CHECKED_ON` and the bound. Each function says when it becomes
unnecessary.

Functions import Ray themselves, as importing Ray Train takes a second, and only some processes need it.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import grpc

CHECKED_ON = "2.60.0"

# A run requests its resources from Ray every 20 s. If its controller dies, they stay reserved until the last request
# expires, after 180 s by default, and an elastic run that is resumed finds no room until then.
REQUEST_EXPIRY_SECONDS = 60


# Clusters


def find_head(address: str | None) -> str:
    """Returns HOST:PORT of the head at `address`, at RAY_ADDRESS, or of the cluster that this machine belongs to.

    Not needed once `ray.init` or a public function resolves an address without connecting.

    Raises:
        ConnectionError: no cluster runs, or several do.
        ValueError: the address is invalid.
    """
    from ray._private import services

    return services.canonicalize_bootstrap_address_or_die(address)


def head_metadata(address: str, timeout: float) -> bytes:
    """Requests the versions of a cluster from its head at HOST:PORT; returns JSON, which is empty if there are none.

    Not needed once Ray's public client fails within a few seconds, with a reason, if the server is not a head.

    Raises:
        grpc.RpcError: the server does not answer, or refuses the request.
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
        with suppress(AttributeError):  # raised by gRPC if the channel never connected
            channel.close()


def check_versions(metadata: dict[str, str]) -> None:
    """Compares a cluster's versions of Ray and Python with those of this process.

    Not needed once `ray.init` checks them before it connects.

    Raises:
        RuntimeError: they differ.
    """
    from ray._private.utils import check_version_info

    check_version_info(metadata, "here")


def default_temp_folder() -> str:
    """Returns the folder that contains Ray's sessions, and with them its Unix sockets.

    Not needed once Ray refuses a path that is too long for its sockets, in one line and before it starts anything.
    """
    from ray._common.utils import get_default_system_temp_dir

    return get_default_system_temp_dir()


@contextmanager
def loopback_only() -> Iterator[None]:
    """Patch: within the context, Ray starts with 127.0.0.1 as this machine's address, and listens only there.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 has the same effect in the processes that Ray starts, but this process read the
    variable when it imported Ray. Not needed once `ray.init(address="local", _node_ip_address="127.0.0.1")` listens on
    no other address, which tests/launch/test_sockets.py can show.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def own_sessions() -> Iterator[None]:
    """Patch: within the context, Ray starts its processes in sessions of their own.

    Signals that are sent to all processes of a command, as by a terminal that is lost or by `timeout`, would otherwise
    end Ray before the command has saved its run. Not needed once Ray starts them like that.
    """
    from ray._private import services

    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = popen


@contextmanager
def patient_start(seconds: float) -> Iterator[None]:
    """Patch: within the context, `ray.init` waits for the raylet that it starts for this time instead of 30 s.

    On a machine that is busy with other programs, 30 s are too short. Not needed once Ray reads the time from a
    variable.
    """
    from ray._private import services

    get_node, end = services.get_node, time.monotonic() + seconds

    def patient(*args: Any) -> Any:
        while True:
            try:
                return get_node(*args)
            except RuntimeError:  # the raylet has not registered yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    services.get_node = patient
    try:
        yield
    finally:
        services.get_node = get_node


# Authentication


def is_token_used() -> bool:
    """Returns True if this process sends a token to clusters.

    Not needed once Ray's error for a refused connection says whether a token was sent.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return is_token_auth_enabled()


def reload_authentication() -> None:
    """Makes Ray read RAY_AUTH_MODE and the variables of the token again, which it otherwise reads only at import.

    Not needed once `ray.init` and Ray's clients accept a token, or read the variables when they connect.
    """
    from ray import _raylet

    raylet: Any = _raylet  # defined in Cython, which type checkers cannot read
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
        """Announces that a node is about to be preempted; returns Ray's reason if it refuses to drain it.

        Args:
            node: ID of the node.
            reason: reason, for Ray's records.
            deadline: UNIX time of the preemption.
        """
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        kind = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, refusal = self._client.drain_node(node, kind, reason, int(deadline * 1000), self._timeout)
        return None if accepted else refusal


# Jobs


def upload_limit() -> int:
    """Returns the size limit in bytes of a package of code: that of the dashboard's uploads, or of the control store.

    Not needed once Ray's job client refuses a larger package in one line.
    """
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE)


def job_client(address: str, timeout: tuple[float, float]) -> Any:
    """Returns Ray's `JobSubmissionClient` of a dashboard, with timeouts, and without its log lines on uploads.

    Not needed once the client accepts a timeout; Ray's waits for an answer forever.

    Args:
        address: URL of the dashboard.
        timeout: seconds to wait for the connection, and for the answer.
    """
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": timeout} | options)

    client = Client(address)
    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)  # the modules set INFO when they are imported
    return client


# Ray Tune


def withhold_from_trials(names: Iterable[str]) -> None:
    """Patch: stops Ray Tune from copying these environment variables to the runtime environments of trials.

    Ray writes runtime environments to its logs and shows them in its dashboard, and the copied variables include keys
    of object stores. Not needed once `ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE` contains no secrets.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE -= set(names)


# Ray Train


def data_parallel_trainer() -> Any:
    """Returns the base class of `TorchTrainer` and `TensorflowTrainer`, which runs any function on a worker group.

    Not needed once `ray.train` exports it for Ray Train V2.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    return DataParallelTrainer


def preemption_notice() -> Any | None:
    """Returns, in a worker, Ray Train's `PreemptionInfo` of its group, None if no preemption is announced.

    Not needed once `ray.train.get_preemption_info` does not wait for all workers; only the worker that saves calls it.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info


class GroupListener(Protocol):
    """Reacts to the end and the restart of worker groups, in the process of a run's controller."""

    def group_preempted(self) -> None:
        """Called when a group has ended because its machines were preempted."""

    def group_failed(self, error: Exception) -> None:
        """Called when a group has failed, before the next one starts; an exception ends the run."""

    def group_waits(self) -> None:
        """Called once when there is no room for the next group."""

    def group_resizes(self, workers: int) -> None:
        """Called before a healthy group is replaced by one of another size."""


def group_callback(listener: GroupListener) -> Any:
    """Returns a callback for Ray Train's `RunConfig` that reports states of the controller to a listener.

    When it is unpickled in the controller's process, before training starts, it also applies `patch_controller` there.

    It uses `after_controller_state_update` for resizes too. Ray calls `before_controller_execute_resize_decision`
    before every start of a group, including the first and those after failures, and does not say which kind it is.

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
    """Returns True if a group ended because machines were preempted, with a notice or, as Ray learned later, without.

    Not needed once Ray Train raises `PreemptionError` for actors that died on a preempted node, too.
    """
    from ray.exceptions import RayActorError
    from ray.train import PreemptionError, WorkerGroupError

    if isinstance(error, WorkerGroupError):
        deaths = [getattr(failure, "health_check_failure", failure) for failure in error.worker_failures.values()]
        return any(isinstance(death, RayActorError) and death.preempted for death in deaths)
    return isinstance(error, PreemptionError)


def patch_controller() -> None:
    """Patch of a controller's process: resource requests expire sooner, and `EndingCleaner` frees its workers.

    Not needed once a variable sets the expiry, and Ray's `PlacementGroupCleaner` ends its own process and asks the
    control store for the controller's state, see `_ending_cleaner`.
    """
    from ray.train.v2._internal.callbacks import placement_group_callback
    from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

    autoscaling_coordinator_client.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = REQUEST_EXPIRY_SECONDS
    placement_group_callback.PlacementGroupCleaner = _ending_cleaner()


def _ending_cleaner() -> type:
    """Returns the class of the actor that frees the placement group of a run whose controller died, and then exits.

    Ray's own actor ends only its monitoring thread, so that 115 MB stay in use on the head for every killed run. And it
    asks the dashboard whether the controller is alive. Some clusters have no dashboard, and it does not list a new
    actor at once, so that a new run may be considered dead, and is then no longer monitored.
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
    """Returns True unless Ray's control store, which knows a new actor at once, says that the actor is dead.

    Not needed once `ray.util.state.get_actor` asks the control store and not the dashboard.

    Args:
        actor_id: ID of the actor, in hexadecimal.
        timeout: ignored; a parameter of Ray's own function, which this one replaces.
    """
    from ray._private import state
    from ray.exceptions import RayError

    try:
        return state.actors(actor_id).get("State", "DEAD") != "DEAD"
    except (RayError, RuntimeError):
        return True
