#!/usr/bin/env bash
# Builds the docs strictly: a broken link or an unknown name fails. Only what
# builds them is installed, for the API reference is read from the sources.
#
#   bash launch/docs.sh [arguments of mkdocs build]
#
# VENV is the folder of the environment (.venv-docs), SITE that of the pages
# (site), PYTHON the interpreter. Ends with 75 where MkDocs cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv-docs}

pinned=$("${PYTHON:-python3}" - << 'PY'
import configparser
config = configparser.ConfigParser()
config.read('setup.cfg')
print(config['options.extras_require']['docs'].strip())
PY
)
if [ "$(cat "$venv/installed" 2> /dev/null)" != "$pinned" ]; then
  if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
  fi
  echo "Installing $(echo "$pinned" | tr '\n' ' ')into $venv."
  echo "$pinned" > "$venv/requirements.txt"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$venv/requirements.txt" || exit 75
  echo "$pinned" > "$venv/installed"
fi
# A notice of mkdocs-material's end of life, in May 2027, on each build.
export NO_MKDOCS_2_WARNING=1
exec "$venv/bin/python" -m mkdocs build --strict --quiet \
  --site-dir "$(realpath -m "${SITE:-site}")" "$@"
