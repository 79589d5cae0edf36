#!/bin/sh
# Makes .venv and installs what is missing in it: `sh scripts/setup.sh` the laboratory, `sh scripts/setup.sh test` its
# tests and linter too. When all is there it takes milliseconds. $PYTHON makes .venv; without it, python3 does.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-}
python=${PYTHON:-python3}
gibibytes=3 # of .venv while pip unpacks

fail() {
    echo "error: $1" >&2
    exit 1
}

# What a stamp in .venv holds: the checksum of setup.py, and this folder, which an editable install points to.
state="$(cksum <setup.py) $PWD"
installed() { [ -x .venv/bin/python ] && [ "$(cat ".venv/.installed$1" 2>/dev/null)" = "$state" ]; }

if installed "${extra:+-$extra}"; then
    exit 0
fi

if ! [ -x .venv/bin/python ]; then
    command -v "$python" >/dev/null || fail "there is no $python; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..."
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || fail "$python does not run as Python; name another: make PYTHON=/path/to/python3 ..."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is Python $version, and 3.11 is the oldest that works; name another: make PYTHON=/path/to/python3.11 ..."
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv module; install it (Debian, Ubuntu: apt install python$version-venv), or name another: make PYTHON=/path/to/python3 ..."
fi
if ! [ -e .venv/.installed ]; then
    free=$(df -Pk . | awk 'NR == 2 { print $4 }')
    [ "$free" -ge $((gibibytes * 1048576)) ] || fail "$PWD has $((free / 1024)) MiB free, and .venv needs $gibibytes GiB; free some, or move the checkout to a larger disk"
fi
if ! [ -x .venv/bin/python ]; then
    said=$("$python" -m venv --clear .venv 2>&1) || fail "$python -m venv .venv failed: $(echo "$said" | tail -n 1)"
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # made without pip, or interrupted
    said=$(.venv/bin/python -m ensurepip 2>&1) || fail "there is no pip in .venv: $(echo "$said" | tail -n 1); make clean, then try again"
fi

log=$PWD/.venv/pip.log
echo "installing into .venv, which takes a minute or two (log: $log)" >&2
if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input -e ".${extra:+[$extra]}" >"$log" 2>&1; then
    fail "pip failed: $(grep . "$log" | tail -n 1) (all it said: $log)"
fi
echo "$state" >.venv/.installed
[ -z "$extra" ] || echo "$state" >".venv/.installed-$extra"
