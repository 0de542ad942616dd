#!/usr/bin/env bash
# SemFlow on generated scenes, from a fresh clone: trains the autoencoder of
# images and painted masks and the flow between their latents, evaluates it
# both ways (masks of images, images of masks), and draws videos of both.
# About an hour on two cores; no data and nobody's weights needed.
#
#   bash launch/semflow.sh
#
# Run again, it goes on where it stopped. VENV is the folder of the environment
# (.venv), VARIANT=:smoke does all of it in small, EXTRAS e.g. cuda12. For the
# baseline and for reflow see configs/semflow_shapes.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
variant=${VARIANT:-}
case $variant in
'') smoke= ;;
:smoke) smoke=,smoke ;;
*)
  echo "VARIANT=$variant: this script knows :smoke only." >&2
  exit 2
  ;;
esac
bash launch/venv.sh "$venv" "${EXTRAS:-}"
run() {
  echo "== $1: $2 -> $3"
  "$venv/bin/python" -m pix2seqd_jax.run --config "$2" --workdir "$3" \
    --mode "${@:4}"
}
own=configs/workdir.py:runs/semflow

run 'Autoencoder' "configs/image_autoencoder_shapes.py:masks$smoke" \
  runs/semflow_autoencoder train
echo '== What the autoencoder alone allows: mIoU of masks sent through it'
"$venv/bin/python" -m benchmarks.round_trip --num_examples 64 \
  --config "configs/semflow_shapes.py$variant" \
  --autoencoder runs/semflow_autoencoder
run 'Flow' "configs/semflow_shapes.py$variant" runs/semflow train
run 'Evaluate, masks of images' "$own" runs/semflow eval |
  tee runs/semflow/evaluation.txt
run 'Evaluate, images of masks' "$own" runs/semflow eval \
  --config.task.name=synthesis | tee runs/semflow/synthesis.txt
echo '== Videos and strips of both ways -> runs/semflow/flows'
"$venv/bin/python" -m pix2seqd_jax.cli.show_flow --workdir runs/semflow \
  --output runs/semflow/flows --num 4
