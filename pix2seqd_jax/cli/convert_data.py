"""A data set -> ArrayRecord shards, for the reader `array_record`.

  python -m pix2seqd_jax.cli.convert_data --config configs/pix2seq_d_coco.py \
    --config.data.root=/data/coco --split train --out /data/coco_records
  python -m pix2seqd_jax.cli.convert_data \
    --name coco_panoptic --images val2017 \
    --panoptic panoptic_val2017 --annotations panoptic_val2017.json \
    --split val --out records
  python -m pix2seqd_jax.cli.convert_data --celeb CelebAMask-HQ --out
  /data/celeb

Any registered reader will do. The bytes of JPEG and PNG files are kept as they
are; labels of other kinds become panoptic PNGs. Each record is read back and
compared before it is written. Stopped, it goes on where it was. The last makes
no shards: the masks of parts of faces become a label map each, and images
are made as large as these, for semantic_folder, layout celeb.
"""

import argparse
import sys
from collections.abc import Sequence

from pix2seqd_jax.data.convert import Conversion
from pix2seqd_jax.data.readers import celeb_masks
from pix2seqd_jax.experiment import flags
from pix2seqd_jax.train import log


def main(argv: Sequence[str] | None = None) -> int:
  """Converts what the arguments name; 0."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.convert_data',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  flags.add_source(parser)
  parser.add_argument('--celeb', help='the unpacked folder of CelebAMask-HQ')
  parser.add_argument('--out', required=True, help='the folder to write')
  parser.add_argument(
    '--shards', type=int, default=0, help='how many; 0: one each 1,024 examples'
  )
  parser.add_argument('--threads', type=int, default=4, help='readers at work')
  parser.add_argument(
    '--overwrite', action='store_true', help='replace a converted split'
  )
  args, rest = parser.parse_known_args(argv)
  if args.celeb:
    return _faces(args, rest)
  source, origin = flags.open_source(args, rest)
  conversion = Conversion(
    source,
    args.out,
    args.split,
    origin=origin,
    num_shards=args.shards,
    overwrite=args.overwrite,
  )
  with log.Progress(len(source), unit='example') as bar:

    def going_on(done):
      if done:
        print(
          f'going on after {done} of {len(source)} examples, which an earlier '
          'conversion finished',
          file=sys.stderr,
        )
      bar.start(done)

    metadata = conversion.run(
      num_threads=args.threads, on_start=going_on, on_example=bar.update
    )
  size = sum(shard['bytes'] for shard in metadata['shards'])
  print(
    f'Wrote {conversion.path}: {metadata["count"]} examples in '
    f'{len(metadata["shards"])} shard(s), {size / 1e6:.1f} MB.'
  )
  return 0


def _faces(args, rest) -> int:
  """Merges the masks of CelebAMask-HQ."""
  if rest or args.config or args.name or args.shards or args.overwrite:
    raise ValueError(
      '--celeb goes with --out and --threads alone: the label maps that it '
      'writes are for semantic_folder.'
    )
  faces = celeb_masks.Faces(args.celeb, args.out)
  with log.Progress(len(faces), unit='face') as bar:
    faces.write(args.threads, bar.update)
  print(f'Wrote {faces.out}: {len(faces)} faces, images/ and labels/.')
  return 0


if __name__ == '__main__':
  flags.main(main)
