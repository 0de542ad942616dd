"""Shared by all tests: devices, the compilation cache, ../shared."""

import fcntl
import json
import os
import pathlib
from typing import Any, NamedTuple

# Before jax is imported: eight devices on the CPU, so that meshes are real.
os.environ['JAX_PLATFORMS'] = 'cpu'
# And little optimisation: compiling takes most of the time of the tests.
for _flag in (
  '--xla_force_host_platform_device_count=8',
  '--xla_backend_optimization_level=0',
):
  _flags = os.environ.get('XLA_FLAGS', '')
  if _flag.split('=')[0] not in _flags:
    os.environ['XLA_FLAGS'] = f'{_flags} {_flag}'.strip()
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

REPO = pathlib.Path(__file__).resolve().parents[1]
_CACHE = os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(REPO / '.cache' / 'jax')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

# The shapes in signatures are checked while the tests run, and only then.
if os.environ.get('PIX2SEQD_CHECK_SHAPES', '1') == '1':
  from jaxtyping import install_import_hook

  install_import_hook(
    [
      f'pix2seqd_jax.{package}'
      for package in ('encoding', 'diffusion', 'architectures', 'models')
    ],
    'beartype.beartype',
  )

import pytest  # noqa: E402

_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser):
  parser.addoption(
    '--all', action='store_true', help='slow tests too; CI runs them'
  )


def pytest_collection_modifyitems(config, items):
  """Leaves out what is marked slow, unless --all or a -m of the user's own."""
  if config.getoption('--all') or config.getoption('-m'):
    return
  slow = [item for item in items if item.get_closest_marker('slow')]
  config.stash[_LEFT_OUT] = len(slow)
  if slow:
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


def pytest_sessionfinish(session):
  output = getattr(session.config, 'workeroutput', None)
  if output is not None:  # a worker of xdist tells the one that prints
    output['left_out'] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  count = getattr(node, 'workeroutput', {}).get('left_out', 0)
  node.config.stash[_LEFT_OUT] = count


def pytest_terminal_summary(terminalreporter, config):
  if count := config.stash.get(_LEFT_OUT, 0):
    terminalreporter.write_line(
      f'{count} slow tests were left out; --all runs them too.'
    )


def shared_root() -> pathlib.Path | None:
  """../shared, or where PIX2SEQD_SHARED points; None where neither exists."""
  path = pathlib.Path(os.environ.get('PIX2SEQD_SHARED', REPO.parent / 'shared'))
  return path if path.is_dir() else None


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of oracles and real data; skips, with the reason, without it.

  PIX2SEQD_REQUIRE_SHARED=1 (CI) turns that skip into a failure.
  """
  path = shared_root()
  if path is None:
    message = 'neither PIX2SEQD_SHARED nor ../shared is a folder'
    if os.environ.get('PIX2SEQD_REQUIRE_SHARED') == '1':
      pytest.fail(message)
    pytest.skip(message)
  return path


class SmokeRun(NamedTuple):
  """A finished run of `pix2seq_d_shapes:smoke`. Copy the folder to change it.

  Attributes:
    config: its config.
    workdir: its folder.
    results: the metrics of its last checkpoint.
  """

  config: Any
  workdir: pathlib.Path
  results: dict[str, float]


@pytest.fixture(scope='session')
def smoke_run(tmp_path_factory) -> SmokeRun:
  """Trains and evaluates once, however many tests and workers look."""
  from smoke import smoke_config

  from pix2seqd_jax.experiment import runs

  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent  # what all workers share
  config, workdir = smoke_config(), folder / 'smoke_run'
  done = folder / 'smoke_run.json'
  with open(folder / 'smoke_run.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not done.exists():
      runs.train(config, workdir)
      done.write_text(json.dumps(runs.evaluate(workdir)))
  return SmokeRun(config, workdir, json.loads(done.read_text()))
