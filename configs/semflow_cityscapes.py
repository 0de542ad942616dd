r"""SemFlow on Cityscapes, 19 classes: the release's config.

It starts as configs/semflow_cocostuff.py does:

  python -m pix2seqd_jax.run --mode train --workdir runs/cityscapes_semflow \
    --config configs/semflow_cityscapes.py --config.data.root=/data/cityscapes

Under the root: leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and
gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png, which cityscapesScripts
make; with --config.data.source.layout=cityscapes, *_gtFine_labelIds.png.

Images and masks of 512 x 1024, whole. Variants: `:colors` (label maps are
painted before they are resized, as in the release), `:dsm` (the paper's
baseline), `:reflow` and `:one_step` (trained on pairs that
runs/cityscapes_semflow itself makes), `:smoke` (seconds, for tests).

No number of theirs, and none of ours: it was not trained here. The release
saves each 10,000 steps of 8,000, which is never; here each 1,000.
"""

from ml_collections import ConfigDict

from configs import common, semflow_common
from pix2seqd_jax.experiment import schema

VARIANTS = semflow_common.RELEASE_VARIANTS
FLOW = 'runs/cityscapes_semflow'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ConfigDict(
    {
      'name': 'semantic_folder',
      'root': '/data/cityscapes',
      'source': {'layout': 'cityscapes_train_ids'},
      'train': {'images': 'leftImg8bit/train', 'labels': 'gtFine/train'},
      'eval': {'images': 'leftImg8bit/val', 'labels': 'gtFine/val'},
      **semflow_common.classes(19),
      'image_size': (512, 1024),
      'mask_size': (512, 1024),
      'train_transforms': (
        ('random_flip', {}),
        semflow_common.STRETCH,
        ('pad', {}),
      ),
      'eval_transforms': (semflow_common.STRETCH, ('pad', {})),
      'batch_size': 256,
      'num_threads': 16,
    }
  )
  config.model = semflow_common.model(
    semflow_common.sd_unet(),
    semflow_common.sd_vae(),
    dtype='bfloat16',
    remat=True,
  )
  config.task = ConfigDict({'name': 'semantic'})
  config.sample = semflow_common.sample()
  config.optimizer = semflow_common.adamw(5e-5)
  config.train = common.train(
    8000, save_every=1000, eval_every=1000, best_metric='miou'
  )
  config.eval = common.evaluation(batch_size=8, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = (('kernel$', 'fsdp'),)
  config.init_from = semflow_common.start()
  config = schema.complete(config)
  semflow_common.choose(config, chosen, FLOW)
  return config
