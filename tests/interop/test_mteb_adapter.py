"""A retriever in MTEB's own retrieval task, loader and metrics, in both directions.

MTEB is not part of `sir_jax[test]`; these tests run if `sir_jax[mteb]` is installed.
"""

import io
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from sir_jax.errors import UserError
from sir_jax.inference.retriever import Retriever

ITEMS = 12


def make_clip(number: int, make_tone) -> tuple[np.ndarray, int]:
    rate = (16_000, 44_100, 8_000)[number % 3]
    wave = np.roll(make_tone(rate + 997 * number, rate), 53 * number).astype(np.float32)
    wave += 0.1 * np.random.default_rng(number).standard_normal(len(wave)).astype(np.float32)
    return wave, rate


def make_file(wave: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def make_picture(number: int) -> Image.Image:
    rng = np.random.default_rng(100 + number)
    return Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(workdir) -> Retriever:
    return Retriever.load(workdir)


def make_columns(clips, files: bool):
    """Return the data sets of clips, as files where the hub's tasks have files, and of pictures."""
    from datasets import Audio, Dataset, Features, Value
    from datasets import Image as ImageColumn

    if files:
        audio = Dataset.from_list(
            [
                {"id": f"a{n}", "audio": {"bytes": make_file(*clip), "path": f"{n}.wav"}}
                for n, clip in enumerate(clips)
            ]
        ).cast_column("audio", Audio())
    else:
        audio = Dataset.from_list(
            [
                {"id": f"a{n}", "audio": {"array": wave.tolist(), "sampling_rate": rate}}
                for n, (wave, rate) in enumerate(clips)
            ]
        )
    image = Dataset.from_list(
        [{"id": f"i{n}", "image": make_picture(n)} for n in range(ITEMS)],
        features=Features({"id": Value("string"), "image": ImageColumn()}),
    )
    return audio, image


@pytest.fixture
def make_task(make_tone):
    pytest.importorskip("mteb", reason="pip install 'sir_jax[mteb]'")
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def make(category: str) -> AbsTaskRetrieval:
        clips = [make_clip(number, make_tone) for number in range(ITEMS)]
        audio, image = make_columns(clips, files=category == "a2i")
        queries, corpus = (audio, image) if category == "a2i" else (image, audio)
        ours, theirs = category[0], category[2]

        class Spoken(AbsTaskRetrieval):
            metadata = TaskMetadata(
                name=f"Spoken{category.upper()}",
                description="Spoken captions.",
                reference=None,
                dataset={"path": "none", "revision": "1"},
                type="Any2AnyRetrieval",
                category=category,
                modalities=["audio", "image"],
                eval_splits=["test"],
                eval_langs=["eng-Latn"],
                main_score="hit_rate_at_1",
                date=None,
                domains=None,
                task_subtypes=None,
                license=None,
                annotations_creators=None,
                dialect=None,
                sample_creation=None,
                bibtex_citation=None,
            )

            def load_data(self, num_proc=None, **kwargs):
                relevant = {f"{ours}{n}": {f"{theirs}{n}": 1} for n in range(ITEMS)}
                parts = dict(
                    corpus=corpus, queries=queries, relevant_docs=relevant, top_ranked=None
                )
                self.dataset = {"default": {"test": parts}}
                self.data_loaded = True

        return Spoken()

    return make


# MTEB, datasets and their dependencies cause warnings.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("category", ["a2i", "i2a"])
def test_mtebs_scores_equal_those_of_the_models_vectors(model, make_task, make_tone, category):
    import mteb

    from sir_jax.interop.mteb_adapter import MtebEncoder

    encoder = MtebEncoder(model, licence="cc-by-4.0")
    assert isinstance(encoder, mteb.models.EncoderProtocol)
    task = make_task(category)
    result = mteb.evaluate(
        encoder, task, cache=None, co2_tracker=False, encode_kwargs={"batch_size": 5}
    )
    scores = result.task_results[0].scores["test"][0]

    speech = model.encode_speech([make_clip(n, make_tone) for n in range(ITEMS)])
    image = model.encode_image([make_picture(n) for n in range(ITEMS)])
    matrix = speech @ image.T if category == "a2i" else image @ speech.T
    ranks = (matrix > np.diag(matrix)[:, None]).sum(1)
    assert 0 < (ranks < 3).sum() < ITEMS  # otherwise the scores below would be trivial
    for k in (1, 3, 5, 10):
        assert scores[f"hit_rate_at_{k}"] == pytest.approx((ranks < k).mean(), abs=1e-4)
    assert scores["main_score"] == scores["hit_rate_at_1"]
    assert scores["ndcg_at_10"] == pytest.approx(
        np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean(), abs=1e-4
    )
    meta = encoder.mteb_model_meta
    assert (meta.embed_dim, meta.revision) == (32, model.fingerprint)
    assert meta.name.startswith("sir_jax/") and meta.modalities == ["audio", "image"]


@pytest.mark.filterwarnings("default")
def test_all_forms_of_items_are_read_and_other_modalities_are_refused(model, make_tone):
    pytest.importorskip("mteb", reason="pip install 'sir_jax[mteb]'")
    from sir_jax.interop.mteb_adapter import MtebEncoder

    encoder = MtebEncoder(model)
    wave = make_tone(9_000).astype(np.float32)
    stereo = np.stack([wave, 0.5 * wave])
    forms = [
        {"array": wave, "sampling_rate": 16_000},
        {"array": wave.tolist(), "sampling_rate": 16_000},
        {"array": stereo, "sampling_rate": 16_000},  # channels first
        {"bytes": make_file(wave, 16_000), "path": None},
    ]
    z = encoder.encode([{"audio": forms[:3], "id": ["a", "b", "c"]}, {"audio": forms[3:]}])
    assert z.dtype == np.float32
    own = model.encode_speech([(wave, 16_000), (stereo.T, 16_000)])
    np.testing.assert_allclose(z, own[[0, 0, 1, 0]], atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)
    for columns, said in ((["text"], "text"), (["audio", "image"], r"audio \+ image")):
        with pytest.raises(UserError, match=f"a batch of {said}: this model encodes audio alone"):
            encoder.encode([{name: [None] for name in columns}])
    pairs = encoder.similarity_pairwise(z, own[[0, 0, 1, 0]])
    np.testing.assert_allclose(np.asarray(pairs), 1, atol=1e-5)
    np.testing.assert_allclose(np.asarray(encoder.similarity(z, own)), z @ own.T, atol=1e-6)


def test_a_missing_package_gives_one_line(model, monkeypatch):
    from sir_jax.interop.mteb_adapter import MtebEncoder

    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(UserError, match=r"pip install 'sir_jax\[mteb\]'$"):
        MtebEncoder(model)
