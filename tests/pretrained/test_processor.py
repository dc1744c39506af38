"""Processors' files as `transformers` wrote them over the years, to fields of our data config."""

import json

import numpy as np
import pytest
import transformers

from sir_jax import pretrained
from sir_jax.errors import UserError
from sir_jax.models import HubertSpec
from sir_jax.pretrained.load import FAMILIES, processor_fields

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CROP = dict(image_mean=MEAN, image_std=STD, image_fit="crop")

# As openai/clip-vit-base-patch32 has it.
OLD_CLIP = dict(
    crop_size=224,
    do_center_crop=True,
    do_normalize=True,
    do_resize=True,
    feature_extractor_type="CLIPFeatureExtractor",
    image_mean=list(MEAN),
    image_std=list(STD),
    resample=3,
    size=224,
)
# As facebook/hubert-large-ll60k has it.
OLD_HUBERT = dict(
    do_normalize=True,
    feature_extractor_type="Wav2Vec2FeatureExtractor",
    feature_size=1,
    padding_side="right",
    padding_value=0,
    return_attention_mask=True,
    sampling_rate=16000,
)


@pytest.fixture
def place(tmp_path):
    """Return a function that writes a checkpoint's config and processor and gives its folder."""

    def write(kind, processor=None, name="preprocessor_config.json"):
        config = {"model_type": kind, "architectures": ["Blip2Model"]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if processor is not None:
            (tmp_path / name).write_text(json.dumps(processor))
        return tmp_path

    return write


def test_no_file_says_nothing(place):
    assert pretrained.preprocessing(place("clip")) == {}
    assert pretrained.preprocessing(place("hubert")) == {}


@pytest.mark.parametrize("kind", ["clip", "clip_vision_model"])
def test_clip_old_and_new(place, kind):
    expected = dict(image_size=224, **CROP)
    assert pretrained.preprocessing(place(kind, OLD_CLIP)) == expected
    new = transformers.CLIPImageProcessorPil().to_dict()
    assert new["size"] == {"shortest_edge": 224}
    assert pretrained.preprocessing(place(kind, new)) == expected
    new |= dict(size=dict(shortest_edge=336), crop_size=dict(height=336, width=336))
    assert pretrained.preprocessing(place(kind, new)) == expected | dict(image_size=336)


def test_statistics_are_the_files(place):
    got = pretrained.preprocessing(place("clip", OLD_CLIP | dict(image_std=[0.5, 0.25, 1])))
    assert got["image_std"] == (0.5, 0.25, 1)


@pytest.mark.parametrize("normalize", [True, False])
def test_hubert_old_and_new(place, normalize):
    new = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize).to_dict()
    for fields in (OLD_HUBERT | dict(do_normalize=normalize), new):
        assert pretrained.preprocessing(place("hubert", fields)) == dict(normalize_wave=normalize)


@pytest.mark.parametrize("kind", ["blip-2", "blip_2_vision_model"])
def test_blip2_squashes(place, kind):
    fields = dict(image_processor_type="BlipImageProcessor", size=dict(height=224, width=224))
    got = pretrained.preprocessing(place(kind, fields))
    assert got == dict(image_size=224, image_mean=MEAN, image_std=STD, image_fit="squash")


def test_parts_of_a_nested_file_go_before_the_single_file(place):
    clip = transformers.CLIPImageProcessorPil(size=dict(shortest_edge=64), crop_size=64).to_dict()
    place("clip", OLD_CLIP)
    nested = {"processor_class": "CLIPProcessor", "image_processor": clip}
    folder = place("clip", nested, "processor_config.json")
    assert pretrained.preprocessing(folder)["image_size"] == 64
    # As transformers itself reads the two.
    theirs = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    assert theirs.size["shortest_edge"] == 64
    place("clip", {"processor_class": "CLIPProcessor"}, "processor_config.json")
    assert pretrained.preprocessing(folder)["image_size"] == 224


@pytest.mark.parametrize("part", ["feature_extractor", "audio_processor"])
def test_nested_file_of_speech(place, part):
    nested = {part: OLD_HUBERT | dict(do_normalize=False), "tokenizer": {}}
    folder = place("hubert", nested, "processor_config.json")
    assert pretrained.preprocessing(folder) == dict(normalize_wave=False)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_names_its_class_and_its_part_of_a_nested_file(place, kind):
    family = FAMILIES[kind]
    spec = family.spec_from_config({"architectures": ["Blip2Model"]})
    assert hasattr(transformers, family.CLASS)
    assert ("feature_extractor" in family.PROCESSOR) == isinstance(spec, HubertSpec)
    for part in family.PROCESSOR:
        folder = place(kind, {part: {"marked": True}, "other": {}}, "processor_config.json")
        assert processor_fields(family, folder) == {"marked": True}


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(do_resize=False), "do_resize=False; only True"),
        (dict(do_center_crop=False), "do_center_crop=False"),
        (dict(do_normalize=None), "do_normalize=False"),
        (dict(do_rescale=False), "do_rescale=False"),
        (dict(rescale_factor=1 / 127.5), "rescale_factor=0.0078"),
        (dict(rescale_factor=1), "rescale_factor=1"),
        (dict(resample=2), "resample=2; only 3"),
        (dict(crop_size=196), "size=224 and crop_size=196"),
        (dict(crop_size=dict(height=224, width=196)), "crop_size=.*only a square"),
        (dict(size=dict(height=224, width=224)), "size={'height': 224, 'width': 224} and"),
        (dict(feature_extractor_type="ViTFeatureExtractor"), "is of ViTFeatureExtractor"),
        (dict(image_processor_type="BlipImageProcessor"), "is of BlipImageProcessor"),
    ],
)
def test_steps_on_pictures_that_are_not_ported_are_refused(place, change, message):
    with pytest.raises(UserError, match=message):
        pretrained.preprocessing(place("clip", OLD_CLIP | change))


@pytest.mark.parametrize(
    "change",
    [
        dict(sampling_rate=8000),
        dict(feature_size=2),
        dict(feature_extractor_type="WhisperFeatureExtractor"),
    ],
)
def test_speech_that_is_prepared_in_another_way_is_refused(place, change):
    field, value = next(iter(change.items()))
    with pytest.raises(UserError, match=f"has {field}={value}; only"):
        pretrained.preprocessing(place("hubert", OLD_HUBERT | change))


def test_damaged_file_is_named(place):
    folder = place("clip")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="preprocessor_config.json cannot be read"):
        pretrained.preprocessing(folder)


def test_pictures_come_out_as_the_processor_makes_them(place):
    # What the fields mean: our pipeline, set by them, equals the processor that wrote them.
    from PIL import Image

    from sir_jax.data.media.image import ImageSpec, preprocess_image

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (70, 50, 3), np.uint8))
    theirs = transformers.CLIPImageProcessorPil(
        size=dict(shortest_edge=40), crop_size=40, image_mean=[0.5, 0.4, 0.3], image_std=[1, 2, 3]
    )
    fields = pretrained.preprocessing(place("clip", theirs.to_dict()))
    ours = preprocess_image(
        picture, ImageSpec(fields["image_size"], fields["image_mean"], fields["image_std"])
    )
    expected = theirs(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
