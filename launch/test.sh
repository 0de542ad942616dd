#!/usr/bin/env bash
# Makes a virtual environment, installs the package and runs its tests: the fast
# ones, or with --all also those that are marked slow (several processes, kills,
# notebooks, networks of full size), as CI does.
#
#   bash launch/test.sh [--all] [arguments of pytest]
#
# VENV is the folder of the environment (.venv-test), WORKERS the number of
# processes: by default one a core, but one for each four GiB of memory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv-test}
bash launch/venv.sh "$venv" test

default_workers() {
  "$1" - << 'PY'
import os
cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
print(max(1, min(cores, 8, round(memory / 4))))
PY
}

workers=${WORKERS:-$(default_workers "$venv/bin/python")}
# A file stays on one worker, so that its fixtures are made once.
exec "$venv/bin/python" -m pytest -n "$workers" --dist loadfile "$@"
