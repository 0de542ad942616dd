r"""SemFlow on COCO-Stuff 164k, 171 classes: the release's config.

It starts from Stable Diffusion 1.5 and the embedding of the empty prompt:

  python -m pix2seqd_jax.pretrained --from sd15 \
    --checkpoint stable-diffusion-v1-5 --out runs/sd15
  python -m pix2seqd_jax.cli.weights_prompt --out runs/null_prompt \
    --text-encoder stable-diffusion-v1-5 --tokenizer stable-diffusion-v1-5
  python -m pix2seqd_jax.run --mode train --workdir runs/cocostuff \
    --config configs/semflow_cocostuff.py --config.data.root=/data/cocostuff

Under the root: train2017/ and val2017/ (images), annotations/train2017/ and
annotations/val2017/ (the label maps of stuffthingmaps_trainval2017.zip, whose
numbers are COCO's ids less one, 0 .. 181, 255 void).

Variants: `:colors` (label maps are painted before they are resized, as in the
release, which makes colours of no class at borders), `:dsm` (the paper's
baseline), `:reflow` and `:one_step` (trained on pairs that runs/cocostuff
itself makes), `:smoke` (seconds, for tests).

Theirs, mIoU in 25 steps: 38.6 (in 1, 5, 200 steps 28.3, 36.9, 38.3); of the
baseline in 200 steps 16.1 by DDIM, 20.2 by DDPM. No number of ours: it was not
trained here, and they released no weights for it.

Departures: val images are stretched to 512 x 512 as in the release, but what
is segmented is scored at the original size, which theirs does not say; blocks
are computed again in the backward pass (model.remat).
"""

from ml_collections import ConfigDict

from configs import common, semflow_common
from pix2seqd_jax.experiment import schema

VARIANTS = semflow_common.RELEASE_VARIANTS
FLOW = 'runs/cocostuff'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ConfigDict(
    {
      'name': 'semantic_folder',
      'root': '/data/cocostuff',
      'source': {'layout': 'coco_stuff'},
      'train': {'images': 'train2017', 'labels': 'annotations/train2017'},
      'eval': {'images': 'val2017', 'labels': 'annotations/val2017'},
      **semflow_common.classes(171),
      'image_size': (512, 512),
      'mask_size': (512, 512),
      'train_transforms': semflow_common.SQUARE_CROPS,
      'eval_transforms': (semflow_common.STRETCH, ('pad', {})),
      'batch_size': 128,
      'num_threads': 16,
    }
  )
  config.model = semflow_common.model(
    semflow_common.sd_unet(), semflow_common.sd_vae(), remat=True
  )
  config.task = ConfigDict({'name': 'semantic'})
  config.sample = semflow_common.sample()
  config.optimizer = semflow_common.adamw(
    1e-5, schedule='constant', warmup_steps=10_000
  )
  config.train = common.train(
    320_000, save_every=10_000, eval_every=5000, best_metric='miou'
  )
  config.eval = common.evaluation(batch_size=16, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = (('kernel$', 'fsdp'),)
  config.init_from = semflow_common.start()
  config = schema.complete(config)
  semflow_common.choose(config, chosen, FLOW)
  return config
