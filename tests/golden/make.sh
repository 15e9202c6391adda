#!/usr/bin/env bash
# How the golden manifests were made: by the code that first wrote their schema version, unpacked from its commit.
#
#   tests/golden/make.sh COMMIT VERSION [SCORE_FLAGS] [SELECT_FLAGS] [INDEX_FLAGS]
#   tests/golden/make.sh 75aa162 1.0
#   tests/golden/make.sh d65650d 1.1 "--views 3 --top-k 2 --augment pad_crop_flip" "--policy replay"
#   tests/golden/make.sh 1d406c5 1.2 "--features" "--per-class-min 1"
#   tests/golden/make.sh tree 1.3 "" "--labels revise" "--thumbnails"
#   tests/golden/make.sh tree 1.4
#   tests/golden/make.sh tree 1.5 "" "--codec int8"
#     and 1.5/labelled: prune label 1.5/selection --views 6 --view-budget 3 --augment pad_crop_flip --no-beton
#
# They are never made again: what an old version wrote is what every later version must read. A new schema version
# gets a folder of its own, made by the commit that releases it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/../../.venv/bin/python
code=$(mktemp -d)
trap 'rm -rf "$code"' EXIT
if [ "$1" = tree ]; then # what is not committed yet
  (cd "$here/../.." && git ls-files -z --cached --others --exclude-standard | tar -c --null -T -) | tar -x -C "$code"
else
  git -C "$here/../.." archive "$1" | tar -x -C "$code"
fi
export PYTHONPATH=$code:$here OMP_NUM_THREADS=1
prune() { (cd "$code" && "$python" -m prune_toolkit "$@"); }
out=$here/$2
# shellcheck disable=SC2086
prune index --data "$here/images" ${5:-} -o "$out/index"
prune score "$out/index" --teacher colour_teacher:colours --device cpu --image-size 8 ${3:-} -o "$out/scores"
prune select "$out/scores" --keep 0.5 --labels raw --no-beton ${4:-} -o "$out/selection"
rm "$out"/*/local.json
if prune push --help > /dev/null 2>&1; then # since 1.3
  prune push "$out/scores" "$out/hidden" --secret "$here/secret.txt"
  prune push "$out/scores" "$out/part" --only scores
  rm -r "$out"/*/card "$out"/*/croissant.json
fi
