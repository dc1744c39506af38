"""Several processes that train as one: how they find each other, and what they agree on.

`start` comes before anything that touches a device. Where the environment tells of one process, or
of none, nothing here talks to the network.
"""

import contextlib
import functools
import glob
import itertools
import json
import os
import re
import socket
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from sir_jax.errors import UserError
from sir_jax.runtime import peers, private
from sir_jax.runtime.sharding import batch_sharding, row_shards

# Seconds. Hosts of one job start minutes apart where a machine has to be made first.
START_TIMEOUT = 300
# The last resort, for a process whose own `peers` thread has died with it; see `peers.LOST`.
HEARTBEAT_TIMEOUT = 60
SHUTDOWN_TIMEOUT = 60
# For what one process alone does, as finding out which checkpoint is whole.
EXCHANGE_TIMEOUT = 600

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_TPU_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
_METADATA = "computeMetadata/v1/instance/attributes/worker-network-endpoints"

_peers: peers.Peers | None = None
_exchanges = itertools.count()


def start(spec: str, environ: Mapping[str, str] = os.environ) -> None:
    """Join the processes of this job; call it before anything that touches a device.

    Args:
      spec: 'off', this process alone; 'HOST:PORT,ID,COUNT', the address of process 0, this process
        and how many there are; or 'auto', which joins where the environment tells of several
        processes.
      environ: of this process.

    Raises:
      UserError: the option cannot be read, or the others do not come.
    """
    if spec not in ("auto", "off"):
        _initialize(**parse_spec(spec))
    elif spec == "auto" and several_processes(environ):
        # What is not given here, JAX finds out by itself.
        known = {
            "num_processes": environ.get("JAX_NUM_PROCESSES"),
            "process_id": environ.get("JAX_PROCESS_ID"),
        }
        _initialize(**{name: int(value) for name, value in known.items() if value is not None})
    elif jax.distributed.is_initialized() or private.backends_exist():
        return
    elif _cpu_devices(environ) > 1:
        # Its devices' exchange then adds up in the order in which several processes' does.
        _initialize(f"127.0.0.1:{_free_port()}", 0, 1)


def parse_spec(spec: str) -> dict[str, str | int]:
    """Read 'HOST:PORT,ID,COUNT'.

    Returns:
      The arguments of `jax.distributed.initialize`.

    Raises:
      UserError: it is none.
    """
    wanted = f"distributed={spec}: give auto, off or HOST:PORT,ID,COUNT with 0 <= ID < COUNT"
    try:
        address, number, count = spec.split(",")
        number, count, port = int(number), int(count), int(address.rpartition(":")[2])
    except ValueError:
        raise UserError(wanted) from None
    if not 0 <= number < count or not 0 < port < 65536 or not address.rpartition(":")[0]:
        raise UserError(wanted)
    return {"coordinator_address": address, "process_id": number, "num_processes": count}


def several_processes(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment says that this process is one of several.

    That is: JAX_COORDINATOR_ADDRESS; a SLURM step of several tasks; several slices; several hosts
    of a TPU slice, by the variables of GKE or, beside TPU chips, by the machine's metadata.
    """
    if environ.get("JAX_COORDINATOR_ADDRESS"):
        return True
    # `salloc` alone sets the number of tasks, without being one of them.
    if all(name in environ for name in _SLURM):
        return int(environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"])) > 1
    if int(environ.get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return True
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        # Where libtpu finds no host, it leaves a sentence there.
        if environ.get(name) and " " not in environ[name]:
            return "," in environ[name]
    beside_chips = any(map(glob.glob, _TPU_CHIPS)) and "TPU_SKIP_MDS_QUERY" not in environ
    # One worker of a slice may be used alone, on its CPU.
    return beside_chips and environ.get("JAX_PLATFORMS") != "cpu" and "," in _endpoints(environ)


def _endpoints(environ: Mapping[str, str]) -> str:
    """Ask the metadata of a Cloud TPU VM for its slice's hosts; '' where there is none."""
    host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/{_METADATA}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ""


def _cpu_devices(environ: Mapping[str, str]) -> int:
    """Return how many CPU devices this process is to have; 1 where its devices are others."""
    if (jax.config.jax_platforms or "cpu") != "cpu":
        return 1
    asked = re.search(r"--xla_force_host_platform_device_count=(\d+)", environ.get("XLA_FLAGS", ""))
    return max(1, jax.config.jax_num_cpu_devices, int(asked[1]) if asked else 1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _initialize(
    coordinator_address: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
) -> None:
    # A product is cut by the number of XLA's threads, so that their number decides in which order
    # it adds: give it however many processes the devices are spread over.
    devices = _cpu_devices(os.environ) * (num_processes or 1)
    if devices > 1:
        os.environ.setdefault("NPROC", str(max(devices, len(os.sched_getaffinity(0)))))
    # Read by the CPU's backend alone, which cannot talk across processes without.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler would take SIGTERM from ours; `peers` carries the notice to the others.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            initialization_timeout=START_TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes did not find each other ({_first_line(error)}); start "
            "the same command on every machine, or give distributed=off to train on this one"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def job(spec: str) -> Iterator[None]:
    """Be one of a job's processes while the `with` block runs; see `start`.

    Where there are several, an error in one of them ends all: this one prints its own, the others
    say which process has failed or is gone. The `with` block is then never left.
    """
    start(spec)
    # Not asked of the devices: to start their backend is the first wait for the others.
    if not jax.distributed.is_initialized() or private.coordination().num_processes == 1:
        yield
        return
    global _peers
    peers.delay_abort()
    state = private.coordination()
    me = state.process_id
    _peers = peers.Peers(state.client, state.coordinator_address, me, state.num_processes)
    try:
        yield
    except BaseException as error:  # noqa: BLE001
        if isinstance(error, jax.errors.JaxRuntimeError):
            # Most often the connection to a process that is dead; its name is worth the wait.
            _peers.await_verdict()
        if isinstance(error, UserError):
            print(f"sir-jax train: process {me}: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)
        _peers.fail(_first_line(error))
        sys.stdout.flush()
        # Without the goodbye to the others that JAX would wait for.
        os._exit(2 if isinstance(error, UserError) else 1)
    _peers.close()
    _peers = None
    jax.distributed.shutdown()


def tick() -> bool:
    """Tell whether all processes stop at this point, which all pass; see `peers.Peers.tick`."""
    return _peers is not None and _peers.tick()


def several() -> bool:
    """Tell whether there are other processes."""
    return _peers is not None


def is_first() -> bool:
    """Tell whether this is the process that prints and writes."""
    return _peers is None or _peers.index == 0


def notify(signum: int) -> None:
    """Have all processes stop together, as a signal asked this one to."""
    _peers.signal = signum


def agreed_signal() -> int:
    """Return the signal for which all stop."""
    return _peers.agreed_signal


def share(name: str, value: Any) -> list[Any]:
    """Give every process what each of them has.

    Args:
      name: what is exchanged; all processes make the same exchanges in the same order.
      value: this process's, as JSON has it.

    Returns:
      All values, by the process's number.
    """
    if _peers is None:
        return [value]
    client, place = private.coordination().client, f"sir_jax/{next(_exchanges)}-{name}"
    client.key_value_set(f"{place}/{_peers.index}", json.dumps(value))
    return [
        json.loads(client.blocking_key_value_get(f"{place}/{peer}", EXCHANGE_TIMEOUT * 1000))
        for peer in range(_peers.count)
    ]


def from_first(name: str, value: Any) -> Any:
    """Return the value that process 0 has; see `share`."""
    return share(name, value)[0]


def meet(name: str) -> None:
    """Wait until all processes are here; see `share`.

    Before devices exchange something after work of unequal length: on CPUs their first exchange
    gives up when the others are half a minute late.
    """
    share(name, None)


def meeting_first(program: Callable) -> Callable:
    """Return a compiled program before whose first run all processes meet; `compiled` is itself."""
    met = []

    def run(*args):
        if not met:
            meet("run")
            met.append(True)
        return program(*args)

    run.compiled = program
    return run if several() else program


def run_together(jitted: Callable, *args: Any) -> Any:
    """Call a jitted function that all processes call, and that may have to be compiled first.

    Args:
      jitted: from `jax.jit`.
      *args: its arguments, trees of arrays.
    """
    if _peers is not None:
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(args))
        if shapes not in _compiled(jitted):
            jitted.lower(*args).compile()
            meet("compiled")
            _compiled(jitted).add(shapes)
    return jitted(*args)


@functools.lru_cache(maxsize=64)
def _compiled(jitted: Callable) -> set:
    """Return the shapes for which every process has compiled a function."""
    return set()


def place(arrays: Any, sharding: Sharding | None) -> Any:
    """Put on the devices what each process has the whole of on its host.

    Args:
      arrays: a tree of arrays.
      sharding: of all of them; None for the first device.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)

    def put(x):
        # `device_put` would first compare the values of all processes, over the network.
        if isinstance(x, np.ndarray):
            return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])
        return jax.device_put(x, sharding)

    return jax.tree.map(put, arrays)


def own_part(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Find which rows of the global batch this process has to read.

    Processes whose devices differ in `tensor` alone hold the same rows.

    Returns:
      Number of this process's part, and how many parts there are.

    Raises:
      UserError: where the rows of two processes overlap in part.
    """
    held, parts = _held_rows(mesh, batch_size)
    if sum(map(len, parts)) != row_shards(mesh) or len({*map(len, parts)}) > 1:
        axes = ", ".join(f"mesh.{axis}={size}" for axis, size in mesh.shape.items())
        raise UserError(
            f"{axes}: processes share some of their rows; choose mesh.tensor to divide "
            "a process's devices, or to be a multiple of them"
        )
    return parts.index(sorted(held[jax.process_index()])), len(parts)


def row_order(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Tell which row of the global batch, as `own_part` divides it, lies where on the devices.

    The two differ where the devices of one process are not neighbours on the mesh.

    Returns:
      For each row of an array on the mesh, the row of the batch, int64 [batch_size].
    """
    _, parts = _held_rows(mesh, batch_size)
    rows = batch_size // row_shards(mesh)
    starts = np.concatenate([np.asarray(part) for part in parts])
    order = np.empty(batch_size, np.int64)
    order[(starts[:, None] + np.arange(rows)).ravel()] = np.arange(batch_size)
    return order


def _held_rows(mesh: Mesh, batch_size: int) -> tuple[dict[int, set[int]], list[list[int]]]:
    """Return where the shards begin that each process holds, and the different sets of these."""
    held: dict[int, set[int]] = {}
    spans = batch_sharding(mesh).devices_indices_map((batch_size,))
    for device, (rows,) in spans.items():
        held.setdefault(device.process_index, set()).add(rows.start or 0)
    return held, sorted(sorted(starts) for starts in {frozenset(s) for s in held.values()})
