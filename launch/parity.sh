#!/usr/bin/env bash
# Compares our networks with those of diffusers and transformers in PyTorch:
# fresh random weights, ten seeds, both ways. Downloads no weights.
#
#   bash launch/parity.sh [arguments of pytest]
#
# VENV is the folder of the environment (.venv-parity), made with the extras
# `test` and `parity`; WORKERS the number of processes (2). Ends with 75 where
# PyTorch cannot be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv-parity}
export PIX2SEQD_CHECK_SHAPES=0  # tracing takes most of the time
bash launch/venv.sh "$venv" test,parity || exit 75
exec "$venv/bin/python" -m pytest -n "${WORKERS:-2}" --dist loadfile \
  -o python_files='parity_*.py' tests/pytorch "$@"
