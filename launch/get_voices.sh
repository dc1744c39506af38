#!/usr/bin/env bash
# Fetch recordings of people, and the synthesisers flite and MBROLA, as Debian packages, and unpack
# them.
# usage: bash launch/get_voices.sh DIR [PACKAGE ...]
#
# Needs apt-get and dpkg-deb, no root; installs nothing. Each package lands in DIR/PACKAGE, flite
# with its libraries in DIR/flite, MBROLA with all voices that sir_jax knows in DIR/mbrola. Stopped
# at any moment, the same command goes on where it was: a folder has its name only when it is whole,
# and DIR/PACKAGE/.files says what is in it. 1,000 MB. Nothing of it may be committed; read the
# licences, which are printed at the end: MBROLA's voices are for non-commercial use.
set -euo pipefail

packages=(
  tuxpaint-stamps-default
  asterisk-core-sounds-{en,es,fr,it,ru}{,-wav}
  asterisk-prompt-it-menardi-wav
  klettres-data
  fillets-ng-data{,-cs,-nl}
  flite
  mbrola
)
mbrola_voices=(
  af1 ar1 ar2 br{1..4} ca1 ca2 cr1 cz1 cz2 de{1..8} ee1 en1 es{1..4} fr{1..7} gr1 gr2 hu1 ic1 id1 in1
  in2 ir1 it{1..4} la1 lt1 lt2 ma1 mx1 mx2 nl{1..3} pl1 pt1 ro1 sw1 sw2 tl1 tr1 tr2 us{1..3} vz1
)

die() {
  echo "get_voices: $*" >&2
  exit 1
}

[ $# -ge 1 ] && [ -n "$1" ] && [ "${1#-}" = "$1" ] ||
  die "usage: bash launch/get_voices.sh DIR [PACKAGE ...]"
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || die "no $tool on PATH; run this on Debian or Ubuntu"
done
mkdir -p "$1" || die "cannot make the folder $1"
folder=$(cd "$1" && pwd)
shift
[ $# -eq 0 ] || packages=("$@")
partial=$folder/.partial
# What an interrupted call has left.
rm -rf "$partial"
trap 'rm -rf "$partial"' EXIT

# MBROLA is in Debian's contrib and non-free, which apt may not know: it gets lists of its own here.
apt=(-o "APT::Sandbox::User=$(id -un)")
know_non_free() {
  local own=$folder/.apt source
  ! apt-cache show mbrola-fr1 >/dev/null 2>&1 || return 0
  # shellcheck disable=SC2016
  source=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI) $(CODENAME)' \
    "Created-By: Packages" | awk '$1 == "Debian" && $2 == "main" && $4 !~ /-/ { print $3, $4; exit }')
  [ -n "$source" ] || die "apt knows no source of MBROLA's voices; add one (contrib and non-free)"
  mkdir -p "$own/lists/partial" "$own/cache/archives/partial"
  echo "deb $source main contrib non-free" >"$own/sources.list"
  apt+=(-o "Dir::Etc::SourceList=$own/sources.list" -o Dir::Etc::SourceParts=/dev/null)
  apt+=(-o "Dir::State::Lists=$own/lists" -o "Dir::Cache=$own/cache")
  apt-get -qq "${apt[@]}" update || die "cannot fetch the lists of contrib and non-free; try again"
}

# Print the .deb files that make up a package's folder: what flite needs comes with it.
parts_of() {
  case $1 in
    flite) echo flite libflite1 "libasound2|libasound2t64" ;;
    mbrola)
      echo espeak-ng libespeak-ng1 espeak-ng-data libsonic0 "libpcaudio0|libpcaudio0t64" mbrola \
        "${mbrola_voices[@]/#/mbrola-}"
      ;;
    *) echo "$1" ;;
  esac
}

# Fetch and unpack the first of some names ('A|B') that apt knows.
unpack() {
  local name
  for name in ${1//|/ }; do
    # As root, apt-get would fetch as another user, who may not write here.
    if (cd "$partial" && apt-get -qq "${apt[@]}" download "$name"); then
      dpkg-deb --extract "$partial/$name"_*.deb "$partial/unpacked" ||
        die "$name: cannot be unpacked (is the disk full?); mend that and run this again"
      return
    fi
  done
  die "cannot fetch $1; look at the network and apt's sources (apt-get update) and run this again"
}

# Print what a package's copyright file calls its licences.
licence() {
  local file names
  file=$folder/$1/usr/share/doc/$1/copyright
  [ -e "$file" ] || { echo "$1: no copyright file; look before you use it"; return; }
  names=$(grep -oE -e '^License: *[^ ].*' -e '/common-licenses/[A-Za-z0-9.+-]*[A-Za-z0-9]' \
    -e 'Creative Commons [A-Z][A-Za-z -]* [0-9]\.[0-9]' "$file" |
    sed -E 's/^License: *//; s/.*common-licenses.//' | awk '!seen[$0]++' | paste -sd, |
    sed 's/,/, /g')
  echo "$1: ${names:-see the file} ($file)"
}

for package in "${packages[@]}"; do
  if [ -f "$folder/$package/.files" ]; then
    echo "$package: there already"
    continue
  fi
  [ ! -e "$folder/$package" ] ||
    die "$folder/$package: may be half unpacked, it has no list .files; remove it and try again"
  rm -rf "$partial"
  mkdir -p "$partial/unpacked"
  echo "$package: fetching"
  [ "$package" != mbrola ] || know_non_free
  for part in $(parts_of "$package"); do
    unpack "$part"
  done
  if [ "$package" = mbrola ]; then
    # eSpeak NG looks for the voices in its own data.
    data=$(echo "$partial"/unpacked/usr/lib/*/espeak-ng-data)
    mkdir "$data/mbrola"
    for voice in "$partial"/unpacked/usr/share/mbrola/*/; do
      voice=$(basename "$voice")
      ln -s "../../../../share/mbrola/$voice/$voice" "$data/mbrola/$voice"
    done
  fi
  (cd "$partial/unpacked" && find . -type f -printf '%s %P\n' | LC_ALL=C sort -k2) >"$partial/files"
  mv "$partial/files" "$partial/unpacked/.files"
  mv "$partial/unpacked" "$folder/$package"
done

echo
echo "licences that the copyright files name; read them before you use a package:"
for package in "${packages[@]}"; do
  licence "$package"
  [ "$package" != mbrola ] ||
    echo "mbrola's voices: each its own, for non-commercial use ($folder/mbrola/usr/share/doc/mbrola-*)"
done
