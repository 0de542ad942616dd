r"""SemFlow on CamVid: street scenes, 11 classes, from no one's weights.

  python -m pix2seqd_jax.run --mode train --workdir runs/camvid_autoencoder \
    --config configs/image_autoencoder_camvid.py
  python -m pix2seqd_jax.run --mode train --workdir runs/camvid_semflow \
    --config configs/semflow_camvid.py
  python -m pix2seqd_jax.run --mode eval --workdir runs/camvid_semflow \
    --config configs/workdir.py:runs/camvid_semflow \
    --config.task.name=synthesis

Variants, together where they make sense: `:dsm` (the paper's baseline),
`:reflow` (trained again on pairs that runs/camvid_semflow itself makes),
`:one_step` (learns its ten steps as one), `:gpu` (192 x 256 images, a wider
network, one GPU; also of configs/image_autoencoder_camvid.py), `:cached`
(whole images, of which latents can be made before, on other machines),
`:scratch` (no weights of other runs), `:smoke` (seconds, for tests):

  python -m pix2seqd_jax.cli.cache_latents --workdir runs/camvid_autoencoder \
    --config configs/semflow_camvid.py:cached --output latents/camvid
  python -m pix2seqd_jax.run --mode train --workdir runs/camvid_semflow \
    --config configs/semflow_camvid.py:cached \
    --config.data.latents=latents/camvid

mIoU counts at the images' own size, 360 x 480; see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common, semflow_common
from pix2seqd_jax.experiment import schema

VARIANTS = (*semflow_common.VARIANTS, 'gpu', 'cached', 'scratch')
IMAGES = 'runs/camvid_autoencoder'
FLOW = 'runs/camvid_semflow'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = ConfigDict()
  config.seed = 0

  config.data = image_autoencoder_common.camvid(gpu)
  if gpu:
    images = image_autoencoder_common.wide(latent_channels=16)
  else:
    images = image_autoencoder_common.painting()
  config.model = semflow_common.model(
    semflow_common.small_unet(96 if gpu else 48),
    images,
    **image_autoencoder_common.CAMVID_PAINT,
    # 1 / latent_std of the autoencoder, 2.7; that of :gpu was not measured.
    latent_scale=0.37,
    prompt_tokens=0,
    # As of shapes: denser near the image, where classes are decided.
    train_times=('beta', {'a': 2.0}),
    dtype='bfloat16' if gpu else 'float32',
  )
  config.task = ConfigDict({'name': 'semantic'})
  config.sample = semflow_common.sample()
  config.optimizer = semflow_common.adamw(
    2e-4 if gpu else 7e-4,
    schedule='cosine',
    end_factor=0.01,
    warmup_steps=100,
    ema_decay=0.998,
  )
  config.train = common.train(
    8000 if gpu else 4000, save_every=500, eval_every=1000, best_metric='miou'
  )
  config.eval = common.evaluation(batch_size=32 if gpu else 16)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = semflow_common.start_from_trained(IMAGES)
  config = schema.complete(config)
  semflow_common.choose(config, chosen, FLOW, teacher_steps=10)
  if 'cached' in chosen:
    _make_certain(config)
  if 'scratch' in chosen:
    config.init_from = ()
  return config


def _make_certain(config):
  """No crops and no drawn latents: an image has one latent, or two."""
  config.model.posterior = 'mode'
  config.data.train_transforms = (
    ('random_flip', {}),
    ('resize_to_fit', {}),
    ('pad', {}),
  )
