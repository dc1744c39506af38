#!/usr/bin/env bash
# Fetch recordings of people, and the synthesiser flite, as Debian packages, and unpack them.
# usage: bash launch/get_voices.sh DIR [PACKAGE ...]
#
# Needs apt-get and dpkg-deb, and no root; installs nothing. Each package lands in DIR/PACKAGE, flite
# and its libraries in DIR/flite. Stopped at any moment, the same command goes on where it was: a
# folder has its name only when it is whole. Nothing of it may be committed; read the licences first,
# which are printed at the end.
set -euo pipefail

packages=(
  tuxpaint-stamps-default
  asterisk-core-sounds-{en,es,fr,it,ru}{,-wav}
  asterisk-prompt-it-menardi-wav
  klettres-data
  fillets-ng-data{,-cs,-nl}
  flite
)
# Packages that share the folder of another one.
flite=(flite libflite1)

die() {
  echo "get_voices: $*" >&2
  exit 1
}

[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || die "usage: bash launch/get_voices.sh DIR [PACKAGE ...]"
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || die "no $tool on PATH; run this on Debian or Ubuntu"
done
mkdir -p "$1" || die "cannot make the folder $1"
folder=$(cd "$1" && pwd)
shift
[ $# -eq 0 ] || packages=("$@")
partial=$folder/.partial
# What an interrupted call left.
rm -rf "$partial"
mkdir "$partial"
trap 'rm -rf "$partial"' EXIT

# Print the licence of an unpacked package: the lines of its copyright file that name one.
licence() {
  local file
  file=$(find -L "$folder/$1/usr/share/doc/$1" -name 'copyright*' 2>/dev/null | head -n 1)
  [ -n "$file" ] || { echo "$1: no copyright file; look before you use it"; return; }
  local names
  names=$(zcat -f "$file" | grep -iE '^ *license:|licen[cs]e[sd]? (as|under)|GPL|Creative Commons|CC[- ]BY' |
    sed -E 's/^[^:]*[Ll]icense: *//; s/^ +//' | awk '!seen[$0]++' | head -n 3 | paste -sd '|' | sed 's/|/ | /g')
  echo "$1: ${names:-see its copyright file} ($file)"
}

for package in "${packages[@]}"; do
  if [ -d "$folder/$package" ]; then
    echo "$package: there already"
    continue
  fi
  parts=("$package")
  [ "$package" != flite ] || parts=("${flite[@]}")
  rm -rf "${partial:?}"/*
  mkdir "$partial/unpacked"
  for part in "${parts[@]}"; do
    echo "$part: fetching"
    # apt-get as root warns that its sandbox user cannot write there.
    (cd "$partial" && apt-get -qq -o APT::Sandbox::User=root download "$part") ||
      die "cannot fetch $part; look at your network and at apt's sources, then run this again"
    dpkg-deb --extract "$partial"/"$part"_*.deb "$partial/unpacked" ||
      die "$part: cannot be unpacked (is the disk full?); mend that and run this again"
  done
  mv "$partial/unpacked" "$folder/$package"
done

echo
echo "licences; the full texts are in DIR/PACKAGE/usr/share/doc:"
for package in "${packages[@]}"; do
  licence "$package"
done
