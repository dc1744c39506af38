"""Make a spoken_scenes corpus: scenes are rendered, and captions are synthesised."""

import shutil
from pathlib import Path

from sir_jax.data.builders.records import progress, write_records
from sir_jax.data.builders.spoken_scenes.config import SPLITS, SceneConfig
from sir_jax.data.builders.spoken_scenes.scenes import count_scenes
from sir_jax.data.builders.spoken_scenes.voices import VOICES, other_voices, voices_of
from sir_jax.data.builders.work_chunks import default_workers
from sir_jax.data.corpus import (
    Corpus,
    corpus_directory,
    index_path,
    open_corpus,
    split_names,
    write_index,
)
from sir_jax.data.media.synthesis import require_engine
from sir_jax.data.media.synthesis.espeak_voices import ACCENTS
from sir_jax.data.paths import data_dir as resolve_data_dir
from sir_jax.errors import UserError
from sir_jax.runtime.locks import only_one


def _prepare(config: SceneConfig, root: Path, workers: int) -> None:
    for engine in config.engines.split(","):
        require_engine(engine)
    from sir_jax.data.builders.spoken_scenes import spoken_scenes_dataset_builder as module

    builder = module.Builder(
        data_dir=str(root),
        config=module.BuilderConfig(scenes=config),
        file_format="array_record",
    )
    with progress(len(builder.plan), "image", "draw and speak") as bar:
        builder.generate(workers, bar.update)
    print("writing the records", flush=True)
    write_records(builder, num_shards=1)


def make_spoken_scenes(config: SceneConfig, data_dir=None, workers: int = 0) -> Corpus:
    """Make a spoken_scenes corpus, or resume an interrupted call.

    Args:
      config: parameters of the corpus.
      data_dir: folder of the corpora; None for $SIR_JAX_DATA or `data`.
      workers: number of processes; 0 for one per CPU core.

    Returns:
      The corpus; if it exists already, without making it again.

    Raises:
      UserError: there are too few distinct scenes or no speech synthesiser, or another call makes
        the corpus.
    """
    if workers < 0:
        raise UserError(f"workers is {workers}; choose 0 for every CPU core, or more")
    name = f"spoken_scenes/{config.name}"
    root = resolve_data_dir(data_dir)
    with only_one(root / name):
        if corpus_directory(name, root) is None:
            _prepare(config, root, workers or default_workers())
        directory = corpus_directory(name, root)
        for split in split_names(directory):
            if not index_path(directory, split).exists():
                write_index(directory, split)
        # Nothing needs the chunks any more.
        for chunks in (root / name).glob("chunks-*"):
            shutil.rmtree(chunks, ignore_errors=True)
    return open_corpus(name, data_dir)


def summary(corpus: Corpus, config: SceneConfig) -> str:
    """Return a table with the images, captions, hours and voices of each split."""
    width = max(map(len, corpus.splits))
    engines = config.engines.split(",")
    lines = [f"{'split':<{width}}{'images':>8}{'captions':>10}{'hours':>8}{'voices':>8}"]
    for name, split in corpus.splits.items():
        hours = split.index["samples"].sum(dtype="i8") / 16_000 / 3600
        if name in SPLITS:
            voices = len(voices_of(name, config.voices))
            voices += len(other_voices(engines, "train")) if name == "train" else 0
        else:
            voices = len(other_voices([config.splits[name]], "test"))
        lines.append(
            f"{name:<{width}}{len(split):>8}{len(split.index):>10}{hours:>8.2f}{voices:>8}"
        )
    accents = {voice.accent for voice in VOICES[: config.voices]}
    lines.append(
        f"level {config.level}: {count_scenes(config.level):,} distinct scenes; "
        f"{len(accents)} of {len(ACCENTS)} accents; no scene or voice is in two splits"
        + ("" if len(corpus.splits) == len(SPLITS) else ", but the scenes of the test splits")
    )
    return "\n".join(lines)
