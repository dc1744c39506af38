"""Tiny random PyTorch encoders with every parameter perturbed."""

import pytest
import torch
import transformers


def perturb(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Move every parameter, biases and norms too: default inits hide swapped biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model.eval()


HUBERT_STYLES = {
    "group": dict(feat_extract_norm="group", conv_bias=False, do_stable_layer_norm=False),
    "layer": dict(feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True),
}


def tiny_hubert(style: str, **changes) -> transformers.HubertModel:
    """Return a HuBERT of width 32 in the style of base ('group') or large ('layer')."""
    config = transformers.HubertConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16, 16, 24, 24, 24, 24, 24),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **HUBERT_STYLES[style],
        **changes,
    )
    torch.manual_seed(0)
    return perturb(transformers.HubertModel(config))


@pytest.fixture(params=sorted(HUBERT_STYLES))
def hubert(request) -> transformers.HubertModel:
    return tiny_hubert(request.param)


@pytest.fixture(params=["quick_gelu", "gelu"])
def clip(request) -> transformers.CLIPVisionModel:
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        hidden_act=request.param,
    )
    torch.manual_seed(0)
    return perturb(transformers.CLIPVisionModel(config))


BLIP2_VISION = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
    initializer_range=0.02,
)
# The width is not the image encoder's: every shape of the cross-attention shows its own.
BLIP2_QFORMER = dict(
    hidden_size=24,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=40,
    vocab_size=50,
    max_position_embeddings=16,
    initializer_range=0.02,
)
BLIP2_TEXT = dict(
    model_type="opt",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    ffn_dim=16,
    vocab_size=50,
    max_position_embeddings=16,
    word_embed_proj_dim=16,
)


def tiny_blip2(architecture: str, qformer: dict | None = None) -> transformers.PreTrainedModel:
    """Return a whole BLIP-2 of a `transformers` class, its Q-Former with text branches."""
    config = transformers.Blip2Config(
        vision_config=BLIP2_VISION,
        qformer_config=BLIP2_QFORMER | dict(use_qformer_text_input=True) | (qformer or {}),
        text_config=BLIP2_TEXT,
        num_query_tokens=5,
        image_text_hidden_size=12,
        initializer_range=0.02,
    )
    torch.manual_seed(0)
    return perturb(getattr(transformers, architecture)(config))


@pytest.fixture
def blip2_vision() -> transformers.Blip2VisionModel:
    torch.manual_seed(0)
    return perturb(transformers.Blip2VisionModel(transformers.Blip2VisionConfig(**BLIP2_VISION)))


@pytest.fixture
def make_blip2():
    return tiny_blip2
