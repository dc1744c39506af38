"""Test-wide settings, made before JAX starts its backend.

The tests wait for compilers, not for arithmetic. Programs are therefore compiled without LLVM's
optimisations and without XLA's fusion emitters, which together take five times as long, each in one
piece, and kept for the whole session: a program that two files or two processes need is compiled
once.
"""

import atexit
import ctypes
import fnmatch
import gc
import os
import shutil
import tempfile
from pathlib import Path

# The programs that tests start inherit all of it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
# For code that nobody waits for, neither pieces of their own for many threads nor an order of
# operations that lets them overlap is worth its making.
FASTER_COMPILING = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false"
)
if FASTER_COMPILING not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FASTER_COMPILING}".strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="sir_jax-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

TESTS = Path(__file__).parent
LIBC = ctypes.CDLL(None)

pytest_plugins = ("retriever_fixtures", "split_fixtures")

# Tracing makes millions of objects that live on; looking for garbage among them every 700 takes a
# tenth of the time.
gc.freeze()
gc.set_threshold(20_000, 20, 20)

# Eight virtual devices, so that every mesh from 1 to 8 runs on one CPU.
jax.config.update("jax_num_cpu_devices", 8)

# Grain's worker processes read absl flags, which no absl app has parsed here.
flags.FLAGS.mark_as_parsed()


# What `--quick` runs: files of every room that take seconds. `test_quick.py` checks that no room
# is left out.
QUICK = """
    test_rooms.py test_quick.py benchmarks/test_encoder_flops.py benchmarks/test_search_bench.py
    cli/test_verbs.py config/test_check.py config/test_command_line.py config/test_compare.py
    config/test_fields.py config/test_upgrade.py data/builders/test_archives.py data/media/test_*.py
    data/preparation/test_prepare_published.py data/test_corpus.py evaluation/test_folds.py
    evaluation/test_ranking.py index/engines/test_exact.py index/test_folder.py index/test_query.py
    index/test_vectors.py inference/test_inputs.py inference/test_shipped.py
    inference/test_token_store.py interop/test_mteb_adapter.py launch/test_tpu_script.py
    learning/test_record.py learning/test_setup.py learning/test_sizes.py
    losses/test_fused_score.py losses/test_matching.py losses/test_queue.py
    models/test_convolution.py models/test_layers.py objective/test_grad_cache.py
    page/test_decoder.py page/test_item_files.py pods/test_collectives.py pods/test_loops.py
    pretrained/test_files.py pretrained/test_parity.py pretrained/test_rules.py
    runtime/test_files.py runtime/test_locks.py runtime/test_trees.py training/test_metrics.py
    training/test_optimizer.py
""".split()


# Two processes take whole files. The longer ones, of twenty seconds to two minutes: begun last, one
# would go on alone.
FIRST = """
    runtime/test_distributed.py objective/test_objective.py training/test_loop.py
    objective/test_grad_cache.py pods/test_program_report.py page/browser/test_asking.py
    cli/test_quickstart.py training/test_stored_features.py models/test_fusion.py
    training/test_step.py models/test_speech_image.py pretrained/test_convert.py
    notebooks/test_notebooks.py inference/test_matching.py page/browser/test_people.py
    training/test_grouped_run.py interop/test_stablehlo.py cli/test_learn.py
    evaluation/test_evaluate.py data/test_pipeline_augmented.py models/test_cudnn.py
    training/test_checkpoint.py data/preparation/test_scenes.py page/test_fuzz.py
    page/browser/test_moments.py evaluation/test_ablate.py page/browser/test_showing.py
    data/test_pipeline.py page/test_server.py evaluation/score/test_same_numbers.py
    training/test_featurize.py models/test_base_size.py cli/test_index.py
    objective/test_objective_devices.py training/test_preemption.py training/test_kill.py
    training/test_published_corpora.py benchmarks/test_bench_step.py
""".split()


def is_quick(path: Path) -> bool:
    """Tell whether `--quick` runs a test file."""
    place = path.relative_to(TESTS).as_posix()
    return any(fnmatch.fnmatchcase(place, pattern) for pattern in QUICK)


def pytest_addoption(parser):
    """Add `--quick` and `--all`."""
    parser.addoption("--quick", action="store_true", help="a choice of tests in every room")
    parser.addoption("--all", action="store_true", help="also what takes long; before a release")


def pytest_ignore_collect(collection_path, config):
    """Leave out the files that `--quick` does not run."""
    if config.getoption("--quick") and collection_path.name.startswith("test_"):
        if collection_path.suffix == ".py" and not is_quick(collection_path):
            return True
    return None


def pytest_collection_modifyitems(config, items):
    """Put files of minutes first, and skip what only `--all` runs."""
    order = {TESTS / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("release"):
                item.add_marker(pytest.mark.skip(reason="takes long; --all runs it"))


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_module():
    """Let go of compiled programs after each file: of all files together they take many GB."""
    yield
    jax.clear_caches()
    gc.collect()
    # glibc keeps what is freed: several GB in the end.
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)
