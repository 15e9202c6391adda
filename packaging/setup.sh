#!/usr/bin/env bash
# Makes .venv with the project and its dependencies (make setup); returns at once when that is up to date.
# PYTHON picks the interpreter. Without it: the one .venv has, python3, or the newest of 3.11 to 3.13 on PATH.
# VENV picks another folder than .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
stamp=$venv/.set-up  # three lines: checksum of what it was made from, interpreter, with-ffcv or without-ffcv
export UV_PYTHON_DOWNLOADS=never PKG_CONFIG_PATH=$PWD/packaging/opencv4${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
stamped() { sed -n "${1}p" "$stamp" 2>/dev/null || true; }

checksum() {
  { cat pyproject.toml constraints.txt packaging/*.* packaging/opencv4/opencv4.pc
    grep ^__version__ prune_toolkit/__init__.py; pwd; } | cksum
}

# The interpreter behind a command, symbolic links, shims and environments resolved; fails unless it is 3.11 to 3.13.
interpreter() {
  "$1" -c 'import os, sys
print(os.path.realpath(sys._base_executable))
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

choose_interpreter() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    interpreter "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.11, 3.12 or 3.13."
    return
  fi
  for candidate in "$venv/bin/python" python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && interpreter "$candidate" >"$scratch"; then
      cat "$scratch"
      return
    fi
  done
  die "no Python 3.11, 3.12 or 3.13 on PATH; name one: make setup PYTHON=/path/to/python3.12"
}

find_uv() {
  for uv in uv .uv/bin/uv; do
    ! "$uv" --version >/dev/null 2>&1 || return 0
  done
  return 1
}

has_module() { "$python" -c "import $1" 2>/dev/null; }

can_have_uv() { find_uv || has_module ensurepip || has_module pip; }

fetch_uv() {
  say "uv: fetching it into .uv"
  if has_module ensurepip; then
    "$python" -m venv .uv
    .uv/bin/python -m pip install --quiet --disable-pip-version-check uv
  else
    "$python" -m pip install --quiet --disable-pip-version-check --target .uv uv
  fi
}

missing_packages() {
  [ "$(uname -s)" = Linux ] || return 0  # elsewhere pyproject.toml asks for no FFCV
  "$python" packaging/missing_packages.py
  can_have_uv || echo "$(basename "$python")-venv"
}

# Some releases say libturbojpeg-dev.
known_to_apt() {
  if apt-cache show libturbojpeg0-dev >/dev/null 2>&1 || ! apt-cache show libturbojpeg-dev >/dev/null 2>&1; then
    echo "$*"
  else
    echo "${*/libturbojpeg0-dev/libturbojpeg-dev}"
  fi
}

apt_get() {
  local become=()
  [ "$(id -u)" = 0 ] || become=(sudo -n)
  "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" \
    </dev/null >"$scratch" 2>&1
}

# shellcheck disable=SC2046  # package names have no spaces
install_missing() {
  command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; } || return 1
  say "system packages: installing $*"
  local options=(install --yes --no-install-recommends)
  apt_get "${options[@]}" $(known_to_apt "$@") ||
    { apt_get update && apt_get "${options[@]}" $(known_to_apt "$@"); } ||
    { tail -n 3 "$scratch" >&2; return 1; }
}

explain_missing() {
  local command
  command="sudo apt-get update && sudo apt-get install --no-install-recommends $(known_to_apt "$@")"
  can_have_uv || die "$python has no venv module; as an administrator run
  $command"
  say "going on without FFCV, with the torch loader. To have FFCV, run this and then make setup:
  $command"
}

# A wheel of FFCV in uv's cache may have been built against another release's OpenCV (home folders are shared).
ffcv_loads() {
  "$venv/bin/python" -c 'import ctypes, importlib.util as u, pathlib as p
ffcv = u.find_spec("ffcv")
for lib in p.Path(ffcv.origin).parent.glob("_libffcv*.so") if ffcv else (): ctypes.CDLL(str(lib))' 2>/dev/null
}

scratch=$(mktemp)
trap 'rm -f "$scratch"' EXIT

python=$(stamped 2)
if [ -n "${PYTHON:-}" ] || [ -z "$python" ] || [ ! -x "$venv/bin/python" ]; then
  python=$(choose_interpreter)
fi
if [ -x "$venv/bin/python" ] && [ "$(stamped 1)" = "$(checksum)" ] && [ "$(stamped 2)" = "$python" ]; then
  [ "$(stamped 3)" = without-ffcv ] || exit 0
  read -ra missing < <(missing_packages | xargs)
  if [ ${#missing[@]} -gt 0 ]; then
    explain_missing "${missing[@]}"
    exit 0
  fi
fi

say "Python: $python"

with_ffcv=with-ffcv
read -ra missing < <(missing_packages | xargs)
if [ ${#missing[@]} -gt 0 ] && ! install_missing "${missing[@]}"; then
  with_ffcv=without-ffcv
  explain_missing "${missing[@]}"
fi

find_uv || { fetch_uv && find_uv; } || die "uv could not be fetched"

if [ ! -x "$venv/bin/python" ] || [ "$(interpreter "$venv/bin/python")" != "$python" ]; then
  say "virtual environment: making $venv"
  "$uv" venv --quiet --clear --python "$python" "$venv"
fi
rm -f "$stamp"

say "Python packages: installing into $venv (the first time on a machine, 3.5 GB are downloaded)"
# Compiled now, in parallel, or else by every first start (by every start, where Python may not write bytecode).
install=("$uv" pip install --python "$venv/bin/python" --exact --compile-bytecode --constraints constraints.txt
  --build-constraints constraints.txt --editable '.[dev,timm,onnx,hf]')
[ -t 2 ] || install+=(--quiet)
if [ "$with_ffcv" = with-ffcv ]; then
  "${install[@]}"
  ffcv_loads || "${install[@]}" --reinstall-package ffcv --refresh-package ffcv
else
  "${install[@]}" --overrides packaging/without-ffcv.txt
fi

printf '%s\n' "$(checksum)" "$python" "$with_ffcv" >"$stamp"
say "done in $SECONDS s"
