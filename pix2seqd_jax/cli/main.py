"""pix2seqd COMMAND: one front door; only the chosen command is imported."""

import importlib
import os
import runpy
import sys
from collections.abc import Callable, Sequence

# command -> (module, function or --mode of run, help)
COMMANDS = {
  'train': ('run', 'train', 'train, or go on where a run stopped'),
  'evaluate': ('run', 'eval', 'the metrics of a checkpoint'),
  'predict': ('run', 'predict', 'images -> files of masks'),
  'synthesize': ('synthesize', 'main', 'label maps -> images'),
  'data validate': ('validate_data', 'main', 'find the faults of a data set'),
  'data convert': ('convert_data', 'main', 'a data set -> ArrayRecord shards'),
  'data export': ('export_data', 'main', 'examples of a run -> files'),
  'data cache-latents': ('cache_latents', 'run', 'write the latents of images'),
  'checkpoint verify': ('verify', 'main', 'compare with the manifest'),
  'weights import': ('weights_import', 'main', 'weights of others -> ours'),
  'weights export': ('weights_import', 'main', 'ours -> weights of others'),
  'weights prompt': ('weights_prompt', 'main', 'the embedding of a prompt'),
  'show denoising': ('show_denoising', 'main', 'images of the sampling'),
  'show flow': ('show_flow', 'main', 'both ways of a flow, as videos'),
}
INTERRUPTED = 130


def usage() -> str:
  """All commands, a line each."""
  lines = [f'  {name:20} {entry[2]}' for name, entry in COMMANDS.items()]
  head = 'usage: pix2seqd COMMAND [--help | FLAGS]\n\n'
  return head + '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; returns its exit code: 2 where there is no such command."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or argv[0] in ('-h', '--help'):
    print(usage())
    return 0 if argv else 2
  size = 1 if argv[0] in COMMANDS else 2
  name, rest = ' '.join(argv[:size]), argv[size:]
  if name not in COMMANDS:
    print(f'unknown command {name!r}.\n{usage()}', file=sys.stderr)
    return 2
  module, function, _ = COMMANDS[name]
  return status(lambda: _call(name, module, function, rest))


def _call(name, module, function, rest):
  if module == 'run':
    sys.argv = [f'pix2seqd {name}', f'--mode={function}', *rest]
    runpy.run_module('pix2seqd_jax.run', run_name='__main__')
    return 0
  sys.argv = [f'pix2seqd {name}', *rest]
  found = importlib.import_module(f'pix2seqd_jax.cli.{module}')
  call = getattr(found, function)
  return call() if module == 'export_data' else call(rest)


def status(call: Callable[[], int | None]) -> int:
  """Calls; the exit status, with our own errors told in a line.

  They say what is wrong and how to mend it, so that a traceback would hide
  it; PIX2SEQD_TRACEBACK shows all. Ctrl-C gives another status than 0, so that
  a script does not go on; a run that SIGTERM stopped has saved and ends with
  0, for schedulers send it to pre-empt.
  """
  try:
    return call() or 0
  except KeyboardInterrupt:
    return INTERRUPTED
  except (ValueError, OSError, ArithmeticError) as error:
    if os.environ.get('PIX2SEQD_TRACEBACK'):
      raise
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    return 1
