"""The command line: one config, one work directory, three modes.

  python -m pix2seqd_jax.run --config configs/pix2seq_d_shapes.py \
    --workdir runs/shapes --mode train
  python -m pix2seqd_jax.run --workdir runs/shapes --mode eval [--watch]
  python -m pix2seqd_jax.run --workdir runs/shapes --mode predict \
    --inputs images/ --output predictions/

`eval` and `predict` take the config from the work directory where none is
given. Any value is overridden as `--config.sample.steps=50`; to override one
of a work directory, name it: `--config=configs/workdir.py:runs/shapes`.
"""

import os
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from pix2seqd_jax.cli import main as cli
from pix2seqd_jax.cli import predict
from pix2seqd_jax.experiment import runs, schema

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The config.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of the run.')
_MODE = flags.DEFINE_enum(
  'mode', 'train', ('train', 'eval', 'predict'), 'What to do.'
)
_WATCH = flags.DEFINE_bool(
  'watch', False, 'eval: new checkpoints as they come, until train.steps.'
)
_STEP = flags.DEFINE_string(
  'step', '', "eval, predict: a checkpoint's step, or 'best'; empty: newest."
)
_INPUTS = flags.DEFINE_multi_string(
  'inputs', [], 'predict: an image or a folder of images; may be repeated.'
)
_OUTPUT = flags.DEFINE_string(
  'output', '', 'predict: where to write; empty: WORKDIR/predictions.'
)
_FORMATS = flags.DEFINE_list(
  'formats', 'panoptic,overlay', 'predict: these, rle, labels, palette.'
)
_TILE = flags.DEFINE_integer(
  'tile', 0, 'predict: cut images into tiles of so many pixels; 0: whole.'
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
  # jax tells at INFO of every backend that is not there, orbax of every file.
  logging.set_verbosity(logging.WARNING)
  sys.exit(cli.status(_run))


def _run():
  """The mode; a run that SIGTERM stopped has saved, and has not failed."""
  config, workdir = _CONFIG.value, _WORKDIR.value
  if _MODE.value == 'train':
    if config is None:
      raise ValueError('--mode=train needs --config=configs/NAME.py.')
    runs.train(config, workdir)
  elif _MODE.value == 'eval':
    runs.evaluate(workdir, config, step=_STEP.value, watch=_WATCH.value)
  else:
    predict.predict(
      workdir,
      _INPUTS.value,
      output=_OUTPUT.value,
      config=config,
      step=_STEP.value,
      formats=_FORMATS.value,
      tile=_TILE.value or None,
    )


def _parse(argv):
  """The flags; what is wrong with them in one line."""
  try:
    return flags.FLAGS(argv)
  except Exception as error:  # config_flags raises as it likes
    if os.environ.get('PIX2SEQD_TRACEBACK'):
      raise
    text = str(error).strip()
    if isinstance(error, AttributeError | KeyError):
      text = schema.unknown_key(re.findall(r'\w+', text)[0])
    elif 'Traceback' in text:  # a config's own error, with its traceback
      text = text.splitlines()[-1]
    sys.exit(text)


def run():
  """Parses the command line, then `main`."""
  flags.mark_flag_as_required('workdir')
  app.run(main, flags_parser=_parse)


if __name__ == '__main__':
  run()
