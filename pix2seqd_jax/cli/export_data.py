"""Writes examples of a run's data as files: COCO panoptic and other formats.

  python -m pix2seqd_jax.cli.export_data --workdir runs/shapes --output scenes
  --num 8

gives scenes/images/*.png, scenes/panoptic/*.png and scenes/panoptic.json: the
form in which one's own data are read (data.name='coco_panoptic'). With
--formats rle, scenes/instances.json is what 'coco_instances' reads; see
data/formats/writers.py for the others.
"""

import argparse
import os
import pathlib
from collections.abc import Sequence

from pix2seqd_jax.data.formats import writers
from pix2seqd_jax.experiment import workdir
from pix2seqd_jax.visualize import overlays, palettes


def export(
  folder: str | os.PathLike,
  output: str | os.PathLike,
  *,
  split: str = 'eval',
  num_examples: int = 8,
  formats: Sequence[str] = ('panoptic',),
) -> pathlib.Path:
  """The first examples of a split, untransformed; returns the output folder.

  Args:
    folder: the work directory of a run; it need not have been trained.
    output: gets images/ and, as a rule, panoptic/ and panoptic.json.
    split: 'train' or 'eval' (held out).
    num_examples: fewer if the split has fewer.
    formats: of writers.FORMATS.

  Raises:
    ValueError: `folder` holds no run, a number below 1, or no such format.
  """
  if num_examples < 1:
    raise ValueError(f'num_examples={num_examples} must be at least 1.')
  experiment = workdir.load(folder)
  source, output = experiment.source(split), pathlib.Path(output)
  names = set()
  colors = palettes.colors(source.categories)
  with writers.Writer(
    output, source.categories, formats, colors=colors
  ) as writer:
    for index in range(min(num_examples, len(source))):
      example = source[index]
      name = pathlib.PurePath(example['file']).with_suffix('.png').name
      if name in names:  # of another folder
        name = f'{index:06d}_{name}'
      names.add(name)
      overlays.save_png(output / 'images' / name, example['image'])
      writer.add(name, example['ids'], example['segments'])
  return output


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--workdir', required=True, help='the folder of a run')
  parser.add_argument('--output', required=True, help='where to write')
  parser.add_argument('--split', default='eval', choices=('train', 'eval'))
  parser.add_argument('--num', type=int, default=8, help='how many images')
  parser.add_argument(
    '--formats', nargs='+', default=('panoptic',), choices=writers.FORMATS
  )
  flags = parser.parse_args()
  try:
    output = export(
      flags.workdir,
      flags.output,
      split=flags.split,
      num_examples=flags.num,
      formats=flags.formats,
    )
  except (ValueError, OSError) as error:
    parser.exit(1, f'{type(error).__name__}: {error}\n')
  print(f'Wrote {output}/: images, {", ".join(flags.formats)}.')


if __name__ == '__main__':
  main()
