#!/usr/bin/env bash
# Makes a virtual environment and installs this package into it.
#
#   bash launch/venv.sh FOLDER [EXTRAS]
#
# FOLDER is made if need be; EXTRAS are those of setup.cfg, such as
# `test` or `cuda12,demo`. Nothing is done where FOLDER is up to date already.
# PYTHON names the interpreter (3.11 or newer); CONSTRAINTS a file of versions,
# by default those that the tests ran with; empty for the newest ones.
set -euo pipefail
venv=${1:?usage: bash launch/venv.sh FOLDER [EXTRAS]}
extras=${2:-}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
constraints=${CONSTRAINTS-constraints.txt}

find_python() {
  local name
  for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    if [ -n "$name" ] && "$name" -c \
      'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$name"
      return
    fi
  done
  echo 'No Python of at least 3.11 was found; name one: PYTHON=...' >&2
  return 1
}

stamp="$venv/installed"
wanted="$(cat setup.cfg pyproject.toml ${constraints:+"$constraints"}; \
  echo "$extras $PWD")"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  exit 0
fi
if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python)
  echo "Making $venv with $("$python" --version)."
  "$python" -m venv "$venv"
fi
echo "Installing pix2seqd_jax${extras:+[$extras]} into $venv."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  ${constraints:+-c "$constraints"} -e ".${extras:+[$extras]}"
echo "$wanted" > "$stamp"
