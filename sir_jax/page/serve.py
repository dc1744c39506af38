"""Serve the page: its address, what it needs before it starts, and its server."""

import socket
import time
import webbrowser

from sir_jax.errors import UserError
from sir_jax.page.guard import is_loopback


def listen(host: str, port: int) -> socket.socket:
    """Take a port of this machine, before anything is loaded.

    Args:
      host: an address that no other machine can reach, or 'localhost'.
      port: 0 for any that is free.

    Returns:
      The bound socket.

    Raises:
      UserError: others could reach the address, or the port is taken.
    """
    if not is_loopback(host):
        raise UserError(
            f"host {host}: the page is for this machine alone, at 127.0.0.1; "
            "from elsewhere, reach it through ssh -L"
        )
    address = "127.0.0.1" if host == "localhost" else host
    if not 0 <= port < 1 << 16:
        raise UserError(f"port {port}: give 1 to 65535, or 0 for any that is free")
    taken = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((address, port))
        taken.listen(128)
    except OSError as error:
        taken.close()
        raise UserError(
            f"port {port} of {host} cannot be had ({error.strerror}); give another port"
        ) from None
    return taken


def url_of(taken: socket.socket) -> str:
    """Return the address of a bound socket as a browser takes it."""
    host, port = taken.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(engine, taken: socket.socket, browse: bool) -> None:
    """Serve the page until Ctrl-C.

    Args:
      engine: the model and the index.
      taken: the bound socket.
      browse: whether a browser is sent there.

    Raises:
      UserError: the server cannot start; it has said why on stderr.
    """
    from sir_jax.page.server import make_server

    server, url = make_server(engine, warm=True), url_of(taken)
    # The socket listens already: who comes now waits a moment and is answered.
    print(f"{url}  (Ctrl-C ends it)", flush=True)
    if browse:
        webbrowser.open(url)
    server.run(sockets=[taken])
    if not server.started:
        raise UserError("the server did not start; the lines above say why")


def prepare(index_dir: str, model_name: str):
    """Load the model and the index, and compile what a plain search needs.

    Args:
      index_dir: a folder that `sir-jax index` wrote.
      model_name: what `Retriever.load` takes.

    Returns:
      The `Engine`.

    Raises:
      UserError: one of them cannot be used, or the page's extra is not installed.
    """
    try:
        # Before minutes are spent on the model.
        import sir_jax.page.server  # noqa: F401
    except ImportError as error:
        raise UserError(f"the page needs {error.name}: pip install 'sir_jax[page]'") from None
    from sir_jax.index.index import Index
    from sir_jax.inference.retriever import Retriever
    from sir_jax.page.engine import Engine

    model = Retriever.load(model_name)
    index = Index.load(index_dir, model)
    engine = Engine(model, index)
    pictures, recordings = len(engine.pictures.known), len(engine.recordings.known)
    print(f"model {model.name}; index of {pictures} pictures and {recordings} recordings")
    start = time.monotonic()
    print("compiling what a search needs ...", end=" ", flush=True)
    engine.warmup()
    print(f"{time.monotonic() - start:.0f} s", flush=True)
    return engine
