"""The `sir-jax` console script: one table of verbs, each imported only when it is called."""

import difflib
import errno
import importlib
import os
import sys
from pathlib import Path

from absl import logging

from sir_jax.errors import UserError
from sir_jax.runtime import console
from sir_jax.runtime.process import keep_memory

# What shells report of a process that SIGINT or SIGPIPE has ended.
INTERRUPTED, CUT_OFF = 130, 141

# verb -> (module, or module:function, that runs it with argv; one line of help). The function is
# `main` where none is named. A verb without a module is a group: its verbs begin with its name.
VERBS = {
    "data": ("", "make, read, check and show corpora"),
    "data spoken_scenes": (
        "sir_jax.cli.data.spoken_scenes",
        "render a corpus that needs no download",
    ),
    "data spoken_captions": (
        "sir_jax.cli.data.spoken_captions",
        "have the captions of any pictures said aloud",
    ),
    "data prepare": ("sir_jax.cli.data.prepare", "read a corpus as its publisher ships it"),
    "data verify": ("sir_jax.cli.data.verify", "see that a prepared corpus is whole"),
    "data show": ("sir_jax.cli.data.show", "draw pictures, spectrograms and captions"),
    "data unpack": ("sir_jax.cli.data.unpack", "write pictures and recordings as files"),
    "data featurize": ("sir_jax.cli.data.featurize", "write frozen encoders' tokens once"),
    "convert": ("sir_jax.cli.model.convert", "make safetensors of a released checkpoint"),
    "pretrain": ("sir_jax.cli.model.pretrain", "make the small encoders that ship with sir_jax"),
    "train": ("sir_jax.cli.model.train", "train a retriever"),
    "evaluate": ("sir_jax.cli.model.evaluate", "print the recall table of a trained retriever"),
    "compare": ("sir_jax.cli.model.compare", "two retrievers on the same queries: who is better"),
    "robustness": (
        "sir_jax.cli.model.robustness",
        "recall in noise, rooms, telephones, and of worse pictures",
    ),
    "ablate": ("sir_jax.cli.model.ablate", "train and evaluate variants of a config over seeds"),
    "export": ("sir_jax.cli.model.export", "make a release of a training run"),
    "info": ("sir_jax.cli.model.info", "say what a model or an index is"),
    "embed": ("sir_jax.cli.embed", "embed long lists of files, on several hosts"),
    "index": ("sir_jax.cli.index", "index a folder, or follow what changed in it"),
    "samples": ("sir_jax.cli.data.samples", "pictures and recordings to try it with"),
    "search": ("sir_jax.cli.search", "find pictures in a folder by voice"),
    "pods": ("", "compile for TPU pods without a TPU; explain the sharding"),
    "pods check": ("sir_jax.cli.pods:check", "compile a config's programs with the TPU's compiler"),
    "pods explain": ("sir_jax.cli.pods:explain", "show how each array lies on the mesh"),
    "bench": ("", "measure speed against a peer in the same run"),
    "bench encoders": ("sir_jax.benchmarks.encoders", "encoders against transformers on PyTorch"),
    "bench augment": ("sir_jax.benchmarks.augment", "what each effect costs a training clip"),
    "bench input": (
        "sir_jax.benchmarks.input",
        "raw files to batches, against librosa and PyTorch",
    ),
    "bench pointing": (
        "sir_jax.cli.model.pointing",
        "do attention maps point at what was named",
    ),
    "bench search": ("sir_jax.benchmarks.search", "exact search against FAISS"),
    "bench index": ("sir_jax.benchmarks.index", "indexing pictures against the bare encoder"),
    "bench step": (
        "sir_jax.benchmarks.step",
        "what each term of the objective costs a train step",
    ),
    "bench trace": ("sir_jax.cli.model.trace", "who takes the time of a traced train step"),
    "bench vector_db": (
        "sir_jax.benchmarks.vector_db",
        "embedded vector databases, those installed",
    ),
    "demo": ("sir_jax.cli.demo", "a local page: search by voice, see why"),
    "learn": ("sir_jax.cli.learn", "your own pictures, from captions to search by voice"),
    "quickstart": (
        "sir_jax.cli.quickstart",
        "corpus, training, evaluation and search in one go",
    ),
}


def is_group(verb: str) -> bool:
    """Tell whether a verb only groups others; '' groups all of them."""
    return not verb or not VERBS[verb][0]


def usage(group: str = "") -> str:
    """Return the help text that lists the verbs of a group."""
    texts = {
        name.rpartition(" ")[2]: text
        for name, (_, text) in VERBS.items()
        if name.rpartition(" ")[0] == group
    }
    width = 2 + max(map(len, texts))
    command = " ".join(["sir-jax", *group.split(), "VERB"])
    lines = [f"  {name:<{width}}{text}" for name, text in texts.items()]
    return "\n".join(
        [f"usage: {command} [options]", "", *lines, "", f"{command} --help lists its options"]
    )


def nearest(words: str) -> str:
    """Return the verb that is most like a mistyped one; its last word alone counts, too."""

    def likeness(verb: str) -> float:
        pairs = (words, verb), (words.rpartition(" ")[2], verb.rpartition(" ")[2])
        whole, last = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return max(whole, 0.99 * last)

    return max(VERBS, key=likeness)


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Args:
      argv: arguments after the program's name; `sys.argv[1:]` where None.

    Returns:
      The exit status: the verb's own, or 2 after a mistake that the user can mend.
    """
    verb, rest = "", list(sys.argv[1:] if argv is None else argv)
    while is_group(verb):
        if not rest or rest[0] in ("-h", "--help"):
            print(usage(verb))
            return 0 if rest else 2
        words = f"{verb} {rest.pop(0)}".strip()
        if words not in VERBS:
            print(
                f"sir-jax: there is no verb {words!r}; the nearest is {nearest(words)!r}; "
                "`sir-jax --help` lists all",
                file=sys.stderr,
            )
            return 2
        verb = words
    # Orbax and TFDS warn of what is meant here; a mistake must stand alone on stderr.
    logging.set_verbosity(logging.ERROR)
    module, _, function = VERBS[verb][0].partition(":")
    run = getattr(importlib.import_module(module), function or "main")
    try:
        return run(rest) or 0
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
    """Run the console script: `main`, in a process that is ours to tune.

    Returns:
      The status of `main`; 130 after Ctrl-C; 141 where who read the output has gone.
    """
    keep_memory()
    hide_absent_tpu()
    console.write_any_letter()
    console.note_interrupts()
    try:
        try:
            status = main()
        except KeyboardInterrupt:
            print("\nsir-jax: interrupted", file=sys.stderr)
            status = INTERRUPTED
        finally:
            if sys.stdout is not None:  # as after `>&-`
                sys.stdout.flush()
    except OSError as error:
        # Other pipes break, too.
        if isinstance(error, BrokenPipeError) and console.reader_is_gone():
            console.drop_output()
            console.leave(CUT_OFF)
        if error.errno != errno.ENOSPC:
            raise
        print(f"sir-jax: {error}; make room there", file=sys.stderr)
        console.drop_output()
        return 1
    if console.interrupted():
        console.leave(status)
    return status
