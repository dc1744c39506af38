import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Compile cheaply, and keep the programs for a module's runs as `train.compile_cache` does."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    # Compiling, not running, is what these tests wait for. `test_kill.py` runs with all of it.
    jax.config.update("jax_disable_most_optimizations", True)
    # JAX decides at its first compilation whether there is a cache; ask it again.
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()
