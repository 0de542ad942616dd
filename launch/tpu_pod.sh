#!/usr/bin/env bash
# Trains on all machines of a Cloud TPU slice.
#
#   bash launch/tpu_pod.sh NAME ZONE configs/NAME.py WORKDIR [FLAGS]
#
# NAME and ZONE are those of `gcloud compute tpus tpu-vm list`; WORKDIR is a
# folder that all machines see (Filestore, or a mounted bucket); FLAGS go to
# pix2seqd_jax.run. The repository lies at REPO (~/pix2seqd_jax) on each of them,
# its environment at VENV, made by: launch/venv.sh VENV tpu.
# The machines find each other by the slice's metadata. Run again after a
# pre-emption, it goes on from the last checkpoint.
set -euo pipefail
usage='usage: tpu_pod.sh NAME ZONE CONFIG WORKDIR [FLAGS]'
name=${1:?$usage}
zone=${2:?$usage}
config=${3:?$usage}
workdir=${4:?$usage}
shift 4

# Each word quoted for the shells over there.
command=$(printf ' %q' -m pix2seqd_jax.run --mode=train "--config=$config" \
  "--workdir=$workdir" --config.distributed.mode=tpu "$@")
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command \
  "cd ${REPO:-pix2seqd_jax} && ${VENV:-.venv}/bin/python$command"
