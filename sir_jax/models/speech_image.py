"""The joint model: two encoders, projections into a joint embedding space, what matches a pair."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from sir_jax.config.specs import (
    FusionSpec,
    HeadSpec,
    HubertSpec,
    MatchSpec,
    QFormerSpec,
    VitSpec,
)
from sir_jax.models.attention import Flash
from sir_jax.models.fusion import TASKS, Fusion
from sir_jax.models.hubert import Hubert, HubertOutput
from sir_jax.models.late import Late
from sir_jax.models.layers import ACTIVATIONS, Array, dense, layer_norm, unit_norm
from sir_jax.models.pooled import Pool
from sir_jax.models.qformer import QFormer
from sir_jax.models.speech_head import ConvHead, TransformerHead
from sir_jax.models.vit import Vit, VitOutput


class Encoded(NamedTuple):
    """The features of one modality."""

    tokens: Array  # [B, 1 + T, D_s] or [B, 1 + P, D_i] with CLS first; Q-Former: [B, queries, D]
    mask: Array  # True for valid tokens, [B, number of tokens]
    embed: Array  # float32 [B, E], unit norm
    frames: Array | None = None  # of speech, where `model.match.frames` is on: [B, 1 + T, D_s]


class Hidden(nn.Module):
    """A layer that moves pictures apart which a frozen encoder puts close together."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map [B, D] to [B, width]."""
        x = layer_norm(1e-5, self.dtype, name="norm")(x)
        return ACTIVATIONS["gelu"](
            dense(self.width, self.dtype, name="up", init_std=x.shape[-1] ** -0.5)(x)
        )


class SpeechImageModel(nn.Module):
    """The joint model of speech and images.

    The names of its sub-modules are the public schema of checkpoints. Without `tasks` there is no
    fusion encoder; each task adds a head. The task 'pool' needs no fusion encoder, nor does 'match'
    where `match_spec.kind` is 'late'.
    """

    speech_spec: HubertSpec
    image_spec: VitSpec
    head_spec: HeadSpec
    image_hidden: int = 0  # width of a layer between the CLS token and its projection; 0 for none
    image_pools: bool = False  # read all tokens of a picture by learnt queries, not its CLS token
    qformer_spec: QFormerSpec | None = None
    fusion_spec: FusionSpec = FusionSpec()
    match_spec: MatchSpec = MatchSpec()
    tasks: tuple[str, ...] = ()
    embed_width: int = 256
    init_temperature: float = 0.07
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    scan: bool = False  # run the encoders' layers as a loop; see `layers.run_blocks`
    attention: str | Flash = "xla"  # see `attention.attend`

    def __post_init__(self):
        qformer = self.qformer_spec
        if qformer and qformer.projection != self.embed_width:
            raise ValueError(
                f"the Q-Former's projection {qformer.projection} is not embed_width "
                f"{self.embed_width}"
            )
        unknown = set(self.tasks) - set(TASKS)
        if unknown:
            raise ValueError(f"tasks {sorted(unknown)} are none of {', '.join(TASKS)}")
        super().__post_init__()

    @property
    def image_has_cls(self) -> bool:
        """Tell whether token 0 of an encoded image is a CLS token; a Q-Former has none."""
        return self.qformer_spec is None

    @property
    def image_width(self) -> int:
        """Return the width of an encoded image's tokens."""
        return self.image_spec.width if self.image_has_cls else self.qformer_spec.width

    @property
    def pooled_width(self) -> int:
        """Return F, the width of a pooled vector; 0 without the task 'pool'."""
        return self.match_spec.width if "pool" in self.tasks else 0

    @property
    def is_late(self) -> bool:
        """Tell whether `match` is late interaction, not the fusion encoder's."""
        return "match" in self.tasks and self.match_spec.kind == "late"

    @property
    def fused_tasks(self) -> tuple[str, ...]:
        """Return the tasks that read the fusion encoder."""
        without = ("pool", "match") if self.is_late else ("pool",)
        return tuple(task for task in self.tasks if task not in without)

    def setup(self):
        common = self.remat, self.dtype
        self.speech = Hubert(self.speech_spec, *common, self.scan, self.attention)
        self.image = Vit(self.image_spec, *common, self.scan, self.attention)
        head = self.head_spec, self.speech_spec.width, 1 + self.speech_spec.layers
        if self.head_spec.kind == "conv":
            self.speech_head = ConvHead(*head, self.dtype)
        else:
            self.speech_head = TransformerHead(*head, *common, self.attention)
        self.speech_projection = dense(self.embed_width, self.dtype, use_bias=False)
        if self.qformer_spec:
            self.image_head = QFormer(self.qformer_spec, *common, self.attention)
        elif self.image_pools:
            spec = MatchSpec(width=self.embed_width)
            self.image_head = Pool(spec, self.image_spec.width, self.dtype)
        else:
            if self.image_hidden:
                self.image_head = Hidden(self.image_hidden, self.dtype)
            self.image_projection = dense(self.embed_width, self.dtype, use_bias=False)
        self.temperature = self.param(
            "temperature", nn.initializers.constant(self.init_temperature), ()
        )
        if self.fused_tasks:
            self.fusion = Fusion(self.fusion_spec, *common, self.attention)
        if self.is_late:
            widths = self.match_spec.width, self.speech_spec.width, self.image_width
            self.late = Late(*widths, self.dtype)
        elif "match" in self.tasks:
            self.match_head = dense(2, self.dtype)
        if "pool" in self.tasks:
            match = self.match_spec
            self.pool_speech = Pool(
                match, self.speech_spec.width, self.dtype, match.places, match.taps
            )
            self.pool_image = Pool(match, self.image_width, self.dtype)
            # Of the cosine as log-odds; the scale is kept as its logarithm.
            self.pooled_scale = self.param("pooled_scale", nn.initializers.constant(2.3), ())
            self.pooled_bias = self.param("pooled_bias", nn.initializers.zeros, ())
        if "denoise_speech" in self.tasks:
            self.denoise_speech = dense(self.speech_spec.width, self.dtype)
        if "denoise_image" in self.tasks:
            self.denoise_image = dense(self.image_width, self.dtype)

    def speech_features(
        self, wave: Array, lengths: Array, deterministic: bool = True
    ) -> HubertOutput:
        """Run the speech encoder alone; student and teacher share its output where it is frozen."""
        return self.speech(wave, lengths, deterministic)

    def image_features(self, pixels: Array, deterministic: bool = True) -> VitOutput:
        """Run the image encoder alone; student and teacher share its output where it is frozen."""
        return self.image(pixels, deterministic)

    def embed_speech(self, features: HubertOutput, deterministic: bool = True) -> Encoded:
        """Compute tokens and embeddings from the output of `speech_features`."""
        tokens, mask = self.speech_head(features, deterministic)
        embed, frames = unit_norm(self.speech_projection(tokens[:, 0])), None
        if self.match_spec.frames and ("pool" in self.tasks or self.is_late):
            frames = jnp.concatenate([tokens[:, :1], features.tokens], axis=1)
        return Encoded(tokens, mask, embed, frames)

    def embed_image(self, features: VitOutput, deterministic: bool = True) -> Encoded:
        """Compute tokens and embeddings from the output of `image_features`.

        With a Q-Former the embedding is the mean of its projected queries, because an index holds
        one vector per image. BLIP-2 itself uses the query that is most similar to the text.
        """
        if self.qformer_spec:
            head = self.image_head(features.tokens, deterministic)
            tokens, embed = head.tokens, head.projected.mean(axis=1)
            return Encoded(tokens, jnp.ones(tokens.shape[:2], bool), unit_norm(embed))
        tokens = features.tokens
        mask = jnp.ones(tokens.shape[:2], bool)
        if self.image_pools:
            return Encoded(tokens, mask, self.embed_tokens(tokens, mask))
        pooled = self.image_head(features.pooled) if self.image_hidden else features.pooled
        return Encoded(tokens, mask, unit_norm(self.image_projection(pooled)))

    def embed_tokens(self, tokens: Array, mask: Array) -> Array:
        """Compute the embeddings of images from their tokens alone, as `image_pools` has it.

        Args:
          tokens: [B, T, D].
          mask: True for valid tokens, [B, T].

        Returns:
          float32 [B, E], unit norm.
        """
        return unit_norm(self.image_head(tokens, mask))

    def encode_speech(self, wave: Array, lengths: Array, deterministic: bool = True) -> Encoded:
        """Encode speech; neither padding nor the rest of the batch changes a clip's result.

        Args:
          wave: samples at 16 kHz, [B, N].
          lengths: number of valid samples, [B].
          deterministic: False turns dropout on (needs the rng 'dropout').
        """
        return self.embed_speech(self.speech_features(wave, lengths, deterministic), deterministic)

    def encode_image(self, pixels: Array, deterministic: bool = True) -> Encoded:
        """Encode images.

        Args:
          pixels: normalised as the image encoder needs, [B, h, w, 3].
          deterministic: False turns dropout on (needs the rng 'dropout').
        """
        return self.embed_image(self.image_features(pixels, deterministic), deterministic)

    def match(self, speech: Encoded, image: Encoded, deterministic: bool = True) -> Array:
        """Compute for each row whether its speech and its image match.

        Args:
          speech: tokens, or frames, and mask of B captions; `embed` is not used.
          image: tokens and mask of B images; `embed` is not used.
          deterministic: False turns dropout on (needs the rng 'dropout').

        Returns:
          Logits, float32 [B, 2]; class 1 is 'they match'. They are those of the CLS token of the
          modality that `fusion_spec.query` names or, of a Q-Former, the mean over its queries. Of
          late interaction they are 0 and the log-odds.
        """
        if self.is_late:
            odds = self.late(self.matched(speech), speech.mask, image.tokens, image.mask)
            return jnp.stack([jnp.zeros_like(odds), odds], axis=-1)
        rows = 1 if self.fusion_spec.query == "speech" or self.image_has_cls else None
        x = self.fuse(speech, image, deterministic, rows)
        return self.match_head(x).astype(jnp.float32).mean(axis=1)

    def matched(self, encoded: Encoded) -> Array:
        """Return the tokens that `match` reads of one modality, [B, T, D]; bound or not."""
        late = self.is_late and encoded.frames is not None
        return encoded.frames if late else encoded.tokens

    def cosines(self, speech: Encoded, image: Encoded) -> Array:
        """Return what late interaction takes maxima of; see `Late.cosines`."""
        return self.late.cosines(self.matched(speech), image.tokens, image.mask)

    def fuse(
        self, speech: Encoded, image: Encoded, deterministic: bool = True, rows: int | None = None
    ) -> Array:
        """Let the modality that `fusion_spec.query` names attend to the other one.

        Args:
          speech: tokens and mask of B captions.
          image: tokens and mask of B images.
          deterministic: False turns dropout on (needs the rng 'dropout').
          rows: number of leading tokens to return; None for all.

        Returns:
          [B, T or rows, W] with the fusion encoder's width W.
        """
        query = self.fusion_spec.query
        own, other = (speech, image) if query == "speech" else (image, speech)
        return self.fusion(
            own.tokens, own.mask, other.tokens, other.mask, query, deterministic, rows
        )

    def pool(self, encoded: Encoded, modality: str) -> Array:
        """Pool the tokens of one modality into one vector an item.

        Args:
          encoded: tokens, or frames, and mask of B items; `embed` is not used.
          modality: 'speech' or 'image'.

        Returns:
          float32 [B, F], unit norm; see `losses.matching.pooled_log_odds` for what they say.
        """
        pool = self.pool_speech if modality == "speech" else self.pool_image
        read = encoded.tokens if encoded.frames is None else encoded.frames
        return unit_norm(pool(read, encoded.mask))

    def denoise(
        self, noisy: Encoded, context: Encoded, modality: str, deterministic: bool = True
    ) -> Array:
        """Rebuild the clean tokens of one modality from noisy ones and the other modality.

        Args:
          noisy: tokens [B, T, D] and mask of the noisy modality; `embed` is not used.
          context: tokens and mask of the other modality; `embed` is not used.
          modality: the noisy modality: 'speech' or 'image'.
          deterministic: False turns dropout on (needs the rng 'dropout').

        Returns:
          The rebuilt tokens, float32 [B, T, D].
        """
        x = self.fusion(
            noisy.tokens, noisy.mask, context.tokens, context.mask, modality, deterministic
        )
        head = self.denoise_speech if modality == "speech" else self.denoise_image
        return head(x).astype(jnp.float32)

    def __call__(
        self, wave: Array, lengths: Array, pixels: Array, deterministic: bool = True
    ) -> tuple[Encoded, Encoded, Array]:
        """Encode both modalities; return (speech, image, temperature).

        On initialisation this also creates the parameters of all tasks.
        """
        speech = self.encode_speech(wave, lengths, deterministic)
        image = self.encode_image(pixels, deterministic)
        if self.is_initializing():
            if "match" in self.tasks:
                self.match(speech, image)
            if "pool" in self.tasks:
                self.pool(speech, "speech"), self.pool(image, "image")
            if "denoise_speech" in self.tasks:
                self.denoise(speech, image, "speech")
            if "denoise_image" in self.tasks:
                self.denoise(image, speech, "image")
        return speech, image, self.temperature
