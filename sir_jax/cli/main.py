"""The ``sir-jax`` console script: a table of verbs, each imported only when it is called."""

import importlib
import os
import sys
from pathlib import Path

from absl import logging

from sir_jax.errors import UserError
from sir_jax.runtime.allocator import keep_memory

# verb -> (module whose main(argv) runs it, one line of help)
VERBS = {
    "data": ("sir_jax.cli.data", "make, read, check and show corpora"),
    "convert": ("sir_jax.pretrained.convert", "make safetensors of a released checkpoint"),
    "pretrain": ("sir_jax.training.pretrain", "make the small encoders that ship with sir_jax"),
    "train": ("sir_jax.cli.train", "train a retriever"),
    "evaluate": ("sir_jax.evaluation.evaluate", "print the recall table of a trained retriever"),
    "ablate": ("sir_jax.evaluation.ablate", "train and evaluate variants of a config over seeds"),
    "export": ("sir_jax.cli.export", "make a release of a training run"),
    "info": ("sir_jax.cli.info", "say what a model or an index is"),
    "embed": ("sir_jax.cli.embed", "embed long lists of files, on several hosts"),
    "index": ("sir_jax.cli.index", "index a folder, or follow what changed in it"),
    "samples": ("sir_jax.data.preparation.samples", "pictures and recordings to try it with"),
    "search": ("sir_jax.cli.search", "find pictures in a folder by voice"),
    "pods": ("sir_jax.cli.pods", "compile for TPU pods without a TPU; explain the sharding"),
    "bench": ("sir_jax.cli.bench", "measure speed against a peer in the same run"),
    "demo": ("sir_jax.page.serve", "a local page: search by voice, see why"),
    "quickstart": (
        "sir_jax.cli.quickstart",
        "corpus, training, evaluation and search in one go",
    ),
}


def usage() -> str:
    """Return the help text that lists every verb."""
    lines = [f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(
        ["usage: sir-jax VERB [options]", "", *lines, "", "sir-jax VERB --help lists its options"]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
      argv: arguments after the program's name; `sys.argv[1:]` where None.

    Returns:
      The exit status: 0, or 2 after a mistake that the user can mend.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    verb, *rest = argv
    if verb not in VERBS:
        print(f"sir-jax: no verb {verb!r}; choose one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    # Orbax and TFDS warn of what is meant here; a mistake must stand alone on stderr.
    logging.set_verbosity(logging.ERROR)
    module = importlib.import_module(VERBS[verb][0])
    try:
        return module.main(rest) or 0
    except UserError as error:
        print(f"sir-jax {verb}: {error}", file=sys.stderr)
        return 2


def hide_absent_tpu() -> None:
    """Keep an installed libtpu from looking for chips, aloud, on a machine that has none."""
    if not any(Path("/dev").glob("accel*")) and not any(Path("/dev").glob("vfio/*")):
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")


def entry() -> int:
    """Run the console script: `main`, in a process that is ours to tune."""
    keep_memory()
    hide_absent_tpu()
    return main()
