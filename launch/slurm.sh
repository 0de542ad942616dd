#!/usr/bin/env bash
# Trains on several machines of a SLURM cluster, one process each.
#
#   sbatch --nodes=4 launch/slurm.sh configs/NAME.py WORKDIR [FLAGS]
#
# WORKDIR is a folder that all machines see; FLAGS go to pix2seqd_jax.run. The
# processes find each other by SLURM's variables (see train/processes.py). Two
# minutes before the time limit the run saves, ends and is put into the queue
# again, where the same job goes on from its checkpoint; so it does after a
# pre-emption, and after the loss of a machine. VENV is the folder of the
# environment. For a process a GPU: --ntasks-per-node=8 --gpus-per-task=1.
#SBATCH --job-name=pix2seqd
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
config=${1:?usage: sbatch launch/slurm.sh CONFIG WORKDIR [FLAGS]}
workdir=${2:?usage: sbatch launch/slurm.sh CONFIG WORKDIR [FLAGS]}
shift 2
# SLURM runs a copy of this script from elsewhere; the job starts in this folder.
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"

again=
# USR1 comes to this script alone: SIGTERM to the tasks makes all of them save
# the same step and end with 0.
trap 'again=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

srun "${VENV:-.venv}/bin/python" -m pix2seqd_jax.run --mode=train \
  --config="$config" --workdir="$workdir" --config.distributed.mode=slurm \
  "$@" &
step=$!
status=0
wait "$step" || status=$?
if [ -n "$again" ]; then
  status=0
  wait "$step" || status=$?  # a signal ends the first wait at once
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
