#!/usr/bin/env bash
# Make the models that ship anew: train, evaluate, export.
#   bash launch/release.sh [spoken-scenes | named-things]...      the default is both
# spoken-scenes takes three hours on two CPU cores, named-things an hour. Voices and pictures
# are fetched into $SIR_JAX_VOICES, or ./voices.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo
models=("${@:-spoken-scenes}")
(($#)) || models+=(named-things)

export SIR_JAX_VOICES=${SIR_JAX_VOICES:-$PWD/voices}
shipped=sir_jax/pretrained/retrievers

spoken_scenes() {
  local out=$shipped/spoken-scenes split corpus
  local heard=spoken_scenes/one-i1-d1-t500-c1-v64-p128-s0-espeak+flite+piper
  local one=spoken_scenes/one-i3000-d250-t500-c4-v64-p128-s0
  local among=spoken_scenes/among-i6000-d100-t500-c2-v64-p128-s0-espeak+flite
  local mixed=spoken_scenes/mixed-i8-d400-t400-c2-v64-p128-s0-espeak+flite
  local pairs=spoken_scenes/compositional-i3000-d100-t300-c4-v64-p128-s0
  local several=spoken_scenes/several-i3000-d100-t1000-c2-v64-p128-s0
  local second=(--config=configs/small.py:match --config.init.model=runs/small)
  local third=(--config=configs/small.py:pooled)
  local three=--engines=espeak,flite,piper
  bash launch/get_voices.sh "$SIR_JAX_VOICES" flite
  sir-jax data spoken_scenes --level=one "$three" --val_images=50 --test_images=50
  sir-jax data spoken_scenes --level=one "$three" --train_images=1 --val_images=1 --captions=1
  sir-jax data spoken_scenes --level=one --engines=espeak
  sir-jax data spoken_scenes --level=among --engines=espeak,flite --train_images=6000 \
    --val_images=100 --captions=2
  sir-jax data spoken_scenes --level=mixed "$three" --train_images=8000 --val_images=80 \
    --test_images=80 --captions=3
  sir-jax data spoken_scenes --level=mixed --engines=espeak,flite --train_images=8 \
    --val_images=400 --test_images=400 --captions=2
  sir-jax data spoken_scenes --level=compositional --engines=espeak --val_images=100 \
    --test_images=300
  sir-jax data spoken_scenes --level=several --engines=espeak --val_images=100 \
    --test_images=1000 --captions=2
  sir-jax train --config=configs/small.py --workdir=runs/small
  sir-jax data featurize "${second[@]}" --out=runs/small-features
  sir-jax train "${second[@]}" --config.data.features=runs/small-features --workdir=runs/small-match
  sir-jax data featurize "${third[@]}" --out=runs/small-features
  sir-jax train "${third[@]}" --config.data.features=runs/small-features --workdir=runs/small-pooled
  # Weights by scenes of all levels; moments are clear by scenes of one object, of which one hears.
  sir-jax evaluate --workdir=runs/small-pooled --corpus="$one" --fit --cautious \
    --fit_corpus="$mixed" --typical_corpus="$one"
  for split in test test_flite test_piper; do # the card holds what it hears, too
    sir-jax evaluate --workdir=runs/small-pooled --corpus="$heard" --split=$split
  done
  for corpus in "$among" "$several" "$pairs"; do
    sir-jax evaluate --workdir=runs/small-pooled --corpus="$corpus"
  done
  rm -rf "$out"
  # Among several objects first results are wrong more often than a fit on all levels says.
  sir-jax export --workdir=runs/small-pooled --out="$out" --name=spoken-scenes --dtype=bfloat16 \
    --licence=Apache-2.0 --no-probabilities
  sir-jax evaluate --model=spoken-scenes --corpus="$one"
  sir-jax bench pointing --corpus="$one"
  sir-jax bench pointing --corpus="$among"
}

named_things() {
  local out=$shipped/named-things split
  local corpus=h.all_s.be.bg.ca.de.el.en.es.fr.it.nl.pt.ro.ru_out.es.fr.ru_p0_v8-espeak+mbrola
  local more=(--config=configs/named_things.py:more --config.init.model=runs/named)
  local features=--config.data.features=runs/named-features
  bash launch/get_voices.sh "$SIR_JAX_VOICES" tuxpaint-stamps-default mbrola
  sir-jax data prepare "tux_paint_stamps/$corpus" --source="$SIR_JAX_VOICES"
  sir-jax data featurize --config=configs/named_things.py --out=runs/named-features
  sir-jax train --config=configs/named_things.py "$features" --workdir=runs/named
  sir-jax train "${more[@]}" "$features" --workdir=runs/named-more
  for split in test val; do # people of the languages held out; voices that no training heard
    sir-jax evaluate --workdir=runs/named-more --which=last --split=$split
    sir-jax robustness --workdir=runs/named-more --which=last --split=$split --captions=0 \
      --conditions=clean --out=runs/named-more/$split
  done
  rm -rf "$out"
  sir-jax export --workdir=runs/named-more --which=last --out="$out" --name=named-things \
    --dtype=bfloat16 --licence=Apache-2.0 --notes=launch/named_things.md
}

for model in "${models[@]}"; do
  case $model in
    spoken-scenes) spoken_scenes ;;
    named-things) named_things ;;
    *)
      echo "launch/release.sh: no model $model ships; give spoken-scenes or named-things" >&2
      exit 2
      ;;
  esac
done
