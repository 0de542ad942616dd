"""python -m pix2seqd_jax COMMAND, the same as pix2seqd COMMAND."""

import sys

from pix2seqd_jax.cli import main

if __name__ == '__main__':
  sys.exit(main.main())
