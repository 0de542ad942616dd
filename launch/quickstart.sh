#!/usr/bin/env bash
# From a fresh clone to images: installs, trains the default on generated
# scenes, evaluates it, segments images. Minutes on two cores; no data needed.
#
#   bash launch/quickstart.sh
#
# Run again, it goes on where it stopped. VENV is the folder of the environment
# (.venv), RUN that of the run (runs/quickstart), EXTRAS e.g. cuda12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
run=${RUN:-runs/quickstart}
config=${CONFIG:-configs/pix2seq_d_shapes.py}
bash launch/venv.sh "$venv" "${EXTRAS:-}"
pix2seqd() { "$venv/bin/python" -m pix2seqd_jax.run --workdir "$run" "$@"; }

# What is newer than the newest checkpoint need not be made again.
is_done() { [ "$1" -nt "$run/checkpoints" ]; }

mkdir -p "$run"
echo "== Train: $config -> $run"
pix2seqd --mode train --config "$config"

if ! is_done "$run/evaluation.txt"; then
  echo '== Evaluate: held-out scenes'
  pix2seqd --mode eval | tee "$run/evaluation.part"
  mv "$run/evaluation.part" "$run/evaluation.txt"
fi

if ! is_done "$run/predictions/panoptic.json"; then
  echo '== Predict: eight held-out scenes as files'
  "$venv/bin/python" -m pix2seqd_jax.cli.export_data --workdir "$run" \
    --output "$run/scenes" --num 8
  pix2seqd --mode predict --inputs "$run/scenes/images"
fi

echo
cat "$run/evaluation.txt"
cat << END

In $PWD:
  images       $run/scenes/images/
  overlays       $run/predictions/overlays/
  panoptic maps  $run/predictions/panoptic/ and panoptic.json
  curves         $run/events.*, for TensorBoard (pip install tensorboard)
END
