#!/usr/bin/env bash
# Make the model anew that ships as `sir_jax.load("spoken-scenes")`: train, evaluate, export. Its
# first stage takes 50 minutes on two CPU cores. flite is fetched into $SIR_JAX_VOICES, or ./voices.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo

out=sir_jax/pretrained/retrievers/spoken-scenes

heard=spoken_scenes/one-i1-d1-t500-c1-v64-p128-s0-espeak+flite+piper
one=spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0
among=spoken_scenes/among-i6000-d100-t500-c2-v64-p128-s0-espeak+flite
second=(--config=configs/small.py:match --config.init.model=runs/small)

export SIR_JAX_VOICES=${SIR_JAX_VOICES:-$PWD/voices}
bash launch/get_voices.sh "$SIR_JAX_VOICES" flite
three=--engines=espeak,flite,piper
sir-jax data spoken_scenes --level=one "$three" --val_images=50 --test_images=50
sir-jax data spoken_scenes --level=one "$three" --train_images=1 --val_images=1 --captions=1
sir-jax data spoken_scenes --level=one --engines=espeak
sir-jax data spoken_scenes --level=among --engines=espeak,flite --train_images=6000 --val_images=100 \
  --captions=2
sir-jax train --config=configs/small.py --workdir=runs/small
sir-jax data featurize "${second[@]}" --out=runs/small-features
sir-jax train "${second[@]}" --config.data.features=runs/small-features --workdir=runs/small-match
sir-jax evaluate --workdir=runs/small-match --corpus="$one"
for split in test test_flite test_piper; do # the card holds what it hears, too
  sir-jax evaluate --workdir=runs/small-match --corpus="$heard" --split=$split --rerank=0
done
rm -rf "$out"
sir-jax export --workdir=runs/small-match --out="$out" --name=spoken-scenes --dtype=bfloat16 \
  --licence=Apache-2.0
sir-jax evaluate --model=spoken-scenes --corpus="$one"
sir-jax bench pointing --corpus="$one"
sir-jax bench pointing --corpus="$among"
