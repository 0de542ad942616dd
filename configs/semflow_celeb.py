r"""SemFlow on CelebAMask-HQ, 19 parts of faces: the release's config.

It starts as configs/semflow_cocostuff.py does. The data set has a mask for
each part of each face; label maps, images of their size and CelebA's split
are made by

  python -m pix2seqd_jax.cli.convert_data --celeb CelebAMask-HQ \
    --out /data/celeb
  python -m pix2seqd_jax.run --mode train --workdir runs/celeb \
    --config configs/semflow_celeb.py --config.data.root=/data/celeb

Nobody says which split theirs was: data.train.names and data.eval.names are
lists of names, one a line. Their released weights (face.pt), with Stable
Diffusion's autoencoder and the prompt out of config.init_from, as a directory
that can be evaluated:

  python -m pix2seqd_jax.pretrained --from semflow --checkpoint face.pt \
    --out runs/face --config configs/semflow_celeb.py \
    --config.data.root=/data/celeb

Variants: `:swap` (a mirrored left eye is a right one; theirs stays a left
one), `:colors` (label maps are painted before they are resized, as in the
release; nothing changes where they are 512 x 512), `:dsm` (the paper's
baseline), `:reflow` and `:one_step` (trained on pairs that runs/celeb itself
makes), `:smoke` (seconds, for tests).

Theirs, in 25 steps: FID 32.6, LPIPS 0.393. No number of ours: it was not
trained here.
"""

from ml_collections import ConfigDict

from configs import common, semflow_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('swap', *semflow_common.RELEASE_VARIANTS)
FLOW = 'runs/celeb'
# Left and right eye, brow and ear, by their classes.
SWAP = ((5, 6), (7, 8), (9, 10))


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ConfigDict(
    {
      'name': 'semantic_folder',
      'root': '/data/celeb',
      'source': {'layout': 'celeb', 'images': 'images', 'labels': 'labels'},
      'train': {'names': 'train.txt'},
      'eval': {'names': 'val.txt'},
      **semflow_common.classes(19),
      'image_size': (512, 512),
      'mask_size': (512, 512),
      'train_transforms': semflow_common.SQUARE_CROPS,
      'eval_transforms': (semflow_common.STRETCH, ('pad', {})),
      'batch_size': 256,
      'num_threads': 16,
    }
  )
  if 'swap' in chosen:
    _, *rest = config.data.train_transforms
    flip = ('random_flip', {'swap': SWAP})
    config.data.train_transforms = (flip, *rest)
  config.model = semflow_common.model(
    semflow_common.sd_unet(),
    semflow_common.sd_vae(),
    dtype='bfloat16',
    remat=True,
  )
  config.task = ConfigDict({'name': 'semantic'})
  config.sample = semflow_common.sample()
  config.optimizer = semflow_common.adamw(2e-5)
  config.train = common.train(
    80_000, save_every=10_000, eval_every=5000, best_metric='miou'
  )
  config.eval = common.evaluation(batch_size=16, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = (('kernel$', 'fsdp'),)
  config.init_from = semflow_common.start()
  config = schema.complete(config)
  semflow_common.choose(config, chosen, FLOW)
  return config
