"""Names of other packages that those do not promise to keep, each behind one function.

There is no public way to what these do. Where a name goes, its function says so in one line, or
does without; `tests/runtime/test_private.py` tells at the first upgrade.
"""

from typing import Any

import jax

from sir_jax.errors import UserError


def backends_exist() -> bool:
    """Tell whether JAX has started its devices, from when on it joins no other processes.

    Every public question about devices starts them.

    Returns:
      False where this JAX does not tell: `jax.distributed.initialize` then raises by itself.
    """
    try:
        from jax._src.xla_bridge import backends_are_initialized
    except ImportError:
        return False
    return backends_are_initialized()


def coordination() -> Any:
    """Return JAX's connection to the job's other processes.

    Public functions talk across processes by way of the devices, which hang when a process is gone.
    Its key-value store does not need them; Orbax uses it, too.

    Returns:
      An object with `client`, `coordinator_address`, `process_id` and `num_processes`.

    Raises:
      UserError: this JAX has no such object.
    """
    try:
        from jax._src.distributed import global_state

        global_state.client, global_state.coordinator_address  # noqa: B018
        global_state.process_id, global_state.num_processes  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"jax {jax.__version__} does not let several processes talk without their devices "
            f"({error}); install another version of jax, or give distributed=off"
        ) from None
    return global_state


def board_is_alive(board: Any) -> bool:
    """Tell whether a `SummaryWriter` of tensorboardX still writes.

    It writes in a thread, which ends at an error (of a full disk) that nobody is told of; its queue
    then fills up, and `add_scalar` blocks for ever.

    Returns:
      True where this tensorboardX does not tell.
    """
    try:
        return board.file_writer.event_writer._worker.is_alive()
    except AttributeError:
        return True
