#!/usr/bin/env bash
# Fetch recordings of people, and the synthesiser flite, as Debian packages, and unpack them.
# usage: bash launch/get_voices.sh DIR [PACKAGE ...]
#
# Needs apt-get and dpkg-deb, no root; installs nothing. Each package lands in DIR/PACKAGE, flite
# with its libraries in DIR/flite. Stopped at any moment, the same command goes on where it was: a
# folder has its name only when it is whole, and DIR/PACKAGE/.files says what is in it. 640 MB.
# Nothing of it may be committed; read the licences, which are printed at the end.
set -euo pipefail

packages=(
  tuxpaint-stamps-default
  asterisk-core-sounds-{en,es,fr,it,ru}{,-wav}
  asterisk-prompt-it-menardi-wav
  klettres-data
  fillets-ng-data{,-cs,-nl}
  flite
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

# Print the .deb files that make up a package's folder: what flite needs comes with it.
parts_of() {
  case $1 in
    flite) echo flite libflite1 "libasound2|libasound2t64" ;;
    *) echo "$1" ;;
  esac
}

# Fetch and unpack the first of some names ('A|B') that apt knows.
unpack() {
  local name
  for name in ${1//|/ }; do
    # As root, apt-get would fetch as another user, who may not write here.
    if (cd "$partial" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$name"); then
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
  for part in $(parts_of "$package"); do
    unpack "$part"
  done
  (cd "$partial/unpacked" && find . -type f -printf '%s %P\n' | LC_ALL=C sort -k2) >"$partial/files"
  mv "$partial/files" "$partial/unpacked/.files"
  mv "$partial/unpacked" "$folder/$package"
done

echo
echo "licences that the copyright files name; read them before you use a package:"
for package in "${packages[@]}"; do
  licence "$package"
done
