"""The scripts of launch/, with stand-ins for a cluster's commands."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((REPO / 'launch').glob('*.sh'))

_PYTHON = f"""#!/usr/bin/env bash
exec {sys.executable} -c '
import sys
from pix2seqd_jax.train import processes
print(*processes.resolve(mode="slurm")[:3], *sys.argv[1:], flush=True)' "$@"
"""
# Two tasks on two machines, as srun starts them.
_SRUN = """#!/usr/bin/env bash
export SLURM_STEP_NODELIST='tpu-[07-08]' SLURM_STEP_NUM_TASKS=2
SLURM_PROCID=1 "$@"
SLURM_PROCID=0 "$@"
touch started
for i in {1..100}; do
  if [ -f cancelled ]; then exit 0; fi
  sleep 0.1
done
exit "${SRUN_STATUS:-0}"
"""


@pytest.fixture
def stand_ins(tmp_path):
  """Runs a script where these commands are only noted."""
  commands = {
    'srun': _SRUN,
    'scancel': '#!/usr/bin/env bash\necho "$@" > cancelled\n',
    'scontrol': '#!/usr/bin/env bash\necho "$@" > requeued\n',
    'gcloud': '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n',
    'venv/bin/python': _PYTHON,
  }
  for name, text in commands.items():
    path = tmp_path / 'bin' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
  env = os.environ | {
    'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}',
    'VENV': f'{tmp_path}/bin/venv',
    'SLURM_JOB_ID': '41',
    'SLURM_SUBMIT_DIR': str(tmp_path),
    'PYTHONPATH': str(REPO),
  }

  def start(name, *arguments):
    return subprocess.Popen(
      ['bash', str(REPO / 'launch' / name), *arguments],
      env=env,
      cwd=tmp_path,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  return start


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_and_runs_as_it_is(path):
  subprocess.run(['bash', '-n', path], check=True)
  assert os.access(path, os.X_OK)


def test_a_slurm_job_saves_and_queues_again_before_its_time_is_up(
  stand_ins, tmp_path
):
  job = stand_ins('slurm.sh', 'configs/a.py', 'w', '--config.seed=3')
  until = time.time() + 60
  while not (tmp_path / 'started').exists():
    assert job.poll() is None and time.time() < until
    time.sleep(0.02)
  assert not (tmp_path / 'cancelled').exists()
  job.send_signal(signal.SIGUSR1)
  said = job.communicate(timeout=60)[0].splitlines()
  assert job.returncode == 0, said
  flags = (
    '-m pix2seqd_jax.run --mode=train --config=configs/a.py --workdir=w '
    '--config.distributed.mode=slurm --config.seed=3'
  )
  assert said == [f'tpu-07:61481 2 {i} {flags}' for i in (1, 0)]
  assert (tmp_path / 'cancelled').read_text() == '--signal=TERM 41\n'
  assert (tmp_path / 'requeued').read_text() == 'requeue 41\n'


def test_a_pod_gets_one_command_on_all_workers(stand_ins):
  job = stand_ins(
    'tpu_pod.sh', 'pod', 'zone', 'c.py:a', 'w x', '--config.b=(1,)'
  )
  said = job.communicate(timeout=60)[0].splitlines()
  assert job.returncode == 0
  assert said[:-1] == [
    *('compute', 'tpus', 'tpu-vm', 'ssh', 'pod', '--zone=zone'),
    *('--worker=all', '--command'),
  ]
  words = subprocess.run(
    ['bash', '-c', f'printf "%s\\n" {said[-1].split("&&")[1]}'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  assert words[1:] == [
    *('-m', 'pix2seqd_jax.run', '--mode=train', '--config=c.py:a'),
    *('--workdir=w x', '--config.distributed.mode=tpu', '--config.b=(1,)'),
  ]


def test_a_script_says_how_it_is_used(stand_ins):
  for name in ('slurm.sh', 'tpu_pod.sh'):
    job = stand_ins(name)
    assert 'usage: ' in job.communicate(timeout=60)[0]
    assert job.returncode != 0
