"""The README's image: held-out examples, their truth and a run's masks.

  python -m benchmarks.headline --workdir runs/quickstart \
    --out docs/images/scenes.png
"""

import argparse

import numpy as np

from pix2seqd_jax.inference import pipeline
from pix2seqd_jax.visualize import overlays


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--out', default='docs/images/scenes.png')
  parser.add_argument(
    '--first', type=int, default=0, help='example to start at'
  )
  parser.add_argument('--num', type=int, default=8)
  parser.add_argument('--columns', type=int, default=2)
  args = parser.parse_args(argv)
  pipe = pipeline.Pipeline.from_pretrained(args.workdir)
  source = pipe.experiment.source('eval')
  panels = []
  for index in range(args.first, min(args.first + args.num, len(source))):
    example = source[index]
    found = pipe.segment(example['image'])
    panels.append(
      overlays.panel(
        example['image'],
        (example['ids'], example['segments']),
        (found.segmentation, found.segments),
        pipe.categories,
        legend=False,
      )
    )
  image = overlays.grid(panels, args.columns)
  overlays.save_png(args.out, np.ascontiguousarray(image))
  print(f'Wrote {args.out}: {image.shape[1]} x {image.shape[0]} pixels.')


if __name__ == '__main__':
  main()
