#!/usr/bin/env bash
# LDMSeg on generated scenes, both stages, from a fresh clone: trains the
# encoder of images, the autoencoder of masks and the latent diffusion of
# masks, evaluates it, and completes masks of which half is taken away. About
# an hour on two cores; no data and nobody's weights needed.
#
#   bash launch/ldmseg.sh
#
# Run again, it goes on where it stopped. VENV is the folder of the environment
# (.venv), VARIANT e.g. :smoke, EXTRAS e.g. cuda12.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
variant=${VARIANT:-}
bash launch/venv.sh "$venv" "${EXTRAS:-}"
run() {
  echo "== $1: $2 -> $3"
  "$venv/bin/python" -m pix2seqd_jax.run --config "$2" --workdir "$3" \
    --mode "${@:4}"
}

run 'Images' "configs/image_autoencoder_shapes.py$variant" \
  runs/image_autoencoder train
run 'Stage 1, masks' "configs/ldmseg_autoencoder_shapes.py$variant" \
  runs/ldmseg_autoencoder train
run 'Stage 2, diffusion' "configs/ldmseg_shapes.py$variant" runs/ldmseg train
run 'Evaluate' configs/workdir.py:runs/ldmseg runs/ldmseg eval |
  tee runs/ldmseg/evaluation.txt
echo '== Inpainting: what comes back of masks with blocks taken away'
"$venv/bin/python" -m benchmarks.inpainting --workdir runs/ldmseg --num 32
