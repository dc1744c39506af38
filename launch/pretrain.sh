#!/usr/bin/env bash
# Train the small encoders of sir_jax/pretrained/spoken_scenes again, from texts and training splits
# only: first on pictures of one object, then also on minimal pairs of pictures of two objects.
# Takes about two hours on two CPU cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo

out=sir_jax/pretrained/spoken_scenes
few="--val_images=20 --test_images=20 --captions=2"
one=spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0
pairs=spoken_scenes/compositional-i3000-d100-t300-c4-v64-p128-s0
one_drawn=spoken_scenes/one-i8000-d20-t20-c2-v64-p128-s0
pairs_drawn=spoken_scenes/compositional-i8000-d20-t20-c2-v64-p128-s0

sir-jax data spoken_scenes --engines=espeak --level=one
sir-jax data spoken_scenes --engines=espeak --level=compositional --val_images=100 --test_images=300
# shellcheck disable=SC2086
sir-jax data spoken_scenes --engines=espeak --level=one --train_images=8000 $few
# shellcheck disable=SC2086
sir-jax data spoken_scenes --engines=espeak --level=compositional --train_images=8000 $few

sir-jax pretrain --tower=speech --corpora=$one --out=$out --steps=3000 --until=1500
sir-jax pretrain --tower=image --corpora=$one_drawn --out=$out --steps=3500
sir-jax pretrain --tower=speech --corpora=$one,$pairs --init=$out/speech --out=$out \
  --steps=1000 --until=800 --learning_rate=5e-4
sir-jax pretrain --tower=image --corpora=$one_drawn,$pairs_drawn --init=$out/image --out=$out \
  --steps=3000 --batch_size=64
