"""The `bench` verb: a table of benchmarks, each imported only when it is called."""

import importlib

from sir_jax.errors import UserError

# name -> (module whose main(argv) runs it, one line of help)
BENCHMARKS = {
    "encoders": ("sir_jax.benchmarks.encoders", "encoders against transformers on PyTorch"),
    "input": ("sir_jax.benchmarks.input", "raw files to batches, against librosa and PyTorch"),
    "pointing": ("sir_jax.evaluation.pointing", "do attention maps point at what was named"),
    "search": ("sir_jax.benchmarks.search", "exact search against FAISS"),
    "index": ("sir_jax.benchmarks.index", "indexing pictures against the bare encoder"),
    "step": ("sir_jax.benchmarks.step", "what each term of the objective costs a train step"),
    "vector_db": ("sir_jax.benchmarks.vector_db", "embedded vector databases, those installed"),
}


def main(argv: list[str]) -> int:
    """Run `sir-jax bench NAME`.

    Args:
      argv: the arguments after the verb.

    Raises:
      UserError: no such benchmark.
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<10}{text}" for name, (_, text) in BENCHMARKS.items()]
        print("\n".join(["usage: sir-jax bench NAME [options]", "", *lines]))
        return 0 if argv else 2
    name, *rest = argv
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}")
    return importlib.import_module(BENCHMARKS[name][0]).main(rest)
