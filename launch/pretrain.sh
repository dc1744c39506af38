#!/usr/bin/env bash
# Make the small encoders of sir_jax/pretrained/spoken_scenes again, from text and the training
# split alone. About an hour on two CPU cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo

out=sir_jax/pretrained/spoken_scenes
spoken=spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0
drawn=spoken_scenes/one-i8000-d20-t20-c2-v64-p128-s0

sir-jax data spoken_scenes --level=one
sir-jax data spoken_scenes --level=one --train_images=8000 --val_images=20 --test_images=20 \
  --captions=2
sir-jax pretrain --tower=speech --corpora=$spoken --out=$out --steps=3000 --until=1500
sir-jax pretrain --tower=image --corpora=$drawn --out=$out --steps=3500
