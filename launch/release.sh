#!/usr/bin/env bash
# Make the shipped model again (`sir_jax.load("spoken-scenes")`): train, evaluate, export. Takes
# about an hour on two CPU cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo

out=sir_jax/pretrained/retrievers/spoken-scenes

one=spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0
among=spoken_scenes/among-i6000-d250-t500-c2-v64-p128-s0
second=(--config=configs/small.py:match --config.init.model=runs/small)

sir-jax data spoken_scenes --engines=espeak --level=one
sir-jax data spoken_scenes --engines=espeak --level=among --train_images=6000 --captions=2
sir-jax train --config=configs/small.py --workdir=runs/small
sir-jax data featurize "${second[@]}" --out=runs/small-features
sir-jax train "${second[@]}" --config.data.features=runs/small-features --workdir=runs/small-match
sir-jax evaluate --workdir=runs/small-match --corpus="$one"
rm -rf "$out"
sir-jax export --workdir=runs/small-match --out="$out" --name=spoken-scenes --dtype=bfloat16 \
  --licence=Apache-2.0
sir-jax evaluate --model=spoken-scenes --corpus="$one"
sir-jax bench pointing --corpus="$one"
sir-jax bench pointing --corpus="$among"
