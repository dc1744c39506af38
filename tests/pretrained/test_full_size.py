"""Released sizes through files on disk: the last outputs equal `transformers` to 1e-3 relative."""

import gc

import jax
import numpy as np
import pytest
import torch
import transformers

from sir_jax import pretrained
from sir_jax.models import HUBERT_VARIANTS, VIT_VARIANTS, HubertSpec, VitSpec, build_encoder
from sir_jax.pretrained.load import family_of

pytestmark = pytest.mark.slow

SPECS = {
    "hubert-base": HubertSpec(**HUBERT_VARIANTS["base"]),
    "hubert-large": HubertSpec(**HUBERT_VARIANTS["large"]),
    "clip-b32": VitSpec(**VIT_VARIANTS["B/32"]),
    "clip-l14": VitSpec(**VIT_VARIANTS["L/14"]),
}
# The code that these run is that of the smaller ones, and of test_parity.py at width 32.
LARGE = ("hubert-large", "clip-l14")


def perturb(model):
    """Move every parameter by a part of its own size, and zeros (biases) and ones (norms) too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            spread = float(p.std()) if p.numel() > 1 else 0.0
            p.add_((0.3 * spread or 0.02) * torch.randn(p.shape, generator=generator))
    return model.eval()


def assert_close(ours, theirs, what):
    ours, theirs = np.asarray(ours, np.float64), theirs.double().numpy()
    assert np.isfinite(theirs).all() and theirs.std() > 1e-3, what
    difference = ours - theirs
    assert np.abs(difference).max() < 1e-3 * theirs.std(), what
    assert np.linalg.norm(difference) < 1e-3 * np.linalg.norm(theirs), what


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.release if name in LARGE else ()) for name in SPECS],
)
def test_encoder_of_released_size(name, tmp_path):
    spec = SPECS[name]
    config = family_of(spec).config_from_spec(spec)
    cls = getattr(transformers, config.pop("architectures")[0])
    config.pop("model_type")
    torch.manual_seed(0)
    model = perturb(cls(cls.config_class(**config)))
    rng = np.random.default_rng(0)
    if isinstance(spec, HubertSpec):
        x = rng.normal(size=(1, 16_000)).astype(np.float32)
        theirs, args = torch.from_numpy(x), (x, np.array([x.shape[1]]))
    else:
        x = rng.normal(size=(1, 3, 224, 224)).astype(np.float32)
        theirs, args = torch.from_numpy(x), (x.transpose(0, 2, 3, 1),)
    with torch.inference_mode():
        wanted = model(theirs)
    model.save_pretrained(tmp_path)
    del model
    got_spec, params = pretrained.load(tmp_path)
    assert got_spec == spec
    got = jax.jit(build_encoder(got_spec).apply)({"params": params}, *args)
    assert_close(got.tokens, wanted.last_hidden_state, "tokens")
    if isinstance(spec, VitSpec):
        assert_close(got.pooled, wanted.pooler_output, "pooled")
    (tmp_path / "model.safetensors").unlink()


# At width 32 in test_blip2.py, at each change.
@pytest.mark.release
def test_blip2_vit_g_and_qformer_of_released_size(tmp_path):
    # Four gigabytes a copy: the PyTorch model goes before ours comes, and its file is in shards.
    vision = transformers.Blip2VisionConfig(initializer_range=0.02)
    qformer = transformers.Blip2QFormerConfig(initializer_range=0.02)
    config = transformers.Blip2Config(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), initializer_range=0.02
    )
    assert (vision.num_hidden_layers, vision.hidden_size, config.num_query_tokens) == (39, 1408, 32)
    torch.manual_seed(0)
    model = perturb(transformers.Blip2VisionModelWithProjection(config))
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    seen = {}
    for name in ("qformer", "vision_projection"):
        getattr(model, name).register_forward_hook(
            lambda module, inputs, out, name=name: seen.update({name: out})
        )
    with torch.inference_mode():
        patches = model(torch.from_numpy(x)).last_hidden_state
    model.save_pretrained(tmp_path, max_shard_size="2GB")
    del model
    gc.collect()
    assert (tmp_path / "model.safetensors.index.json").is_file()
    spec, params = pretrained.load(tmp_path)
    vit, got = jax.jit(build_encoder(spec).apply)({"params": params}, x.transpose(0, 2, 3, 1))
    assert vit.tokens.shape == (1, 257, 1408)
    assert_close(vit.tokens, patches, "image tokens")
    assert_close(got.tokens, seen["qformer"][0], "query tokens")
    assert_close(got.projected, seen["vision_projection"], "projected queries")
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
