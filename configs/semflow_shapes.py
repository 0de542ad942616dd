r"""SemFlow on generated scenes, 2 cores: masks of images, images of masks.

  bash launch/semflow.sh

trains the small autoencoder and the flow, and evaluates both directions; or
by hand:

  python -m pix2seqd_jax.run --mode train --workdir runs/semflow_autoencoder \
    --config configs/image_autoencoder_shapes.py:masks
  python -m pix2seqd_jax.run --mode train --workdir runs/semflow \
    --config configs/semflow_shapes.py
  python -m pix2seqd_jax.run --mode eval --workdir runs/semflow \
    --config configs/workdir.py:runs/semflow \
    --config.task.name=synthesis

What the autoencoder alone allows: python -m benchmarks.round_trip --workdir
runs/semflow. The baseline, and a flow of fewer steps out of runs/semflow:

  python -m pix2seqd_jax.run --mode train --workdir runs/semflow_dsm \
    --config configs/semflow_shapes.py:dsm
  python -m pix2seqd_jax.run --mode train --workdir runs/semflow_reflow \
    --config configs/semflow_shapes.py:reflow

Variants: `:dsm` (the paper's baseline, noise -> mask), `:reflow` (trained
again on pairs that runs/semflow itself makes), `:one_step` (learns its ten
steps as one), `:scratch` (no weights of other runs), `:smoke` (seconds, for
tests). Expected: mIoU of both directions; see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common, semflow_common
from pix2seqd_jax.experiment import schema

VARIANTS = (*semflow_common.VARIANTS, 'scratch')
IMAGES = 'runs/semflow_autoencoder'
FLOW = 'runs/semflow'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = common.shapes(batch_size=8)
  config.model = semflow_common.model(
    semflow_common.small_unet(),
    image_autoencoder_common.painting(),
    **image_autoencoder_common.SHAPES_PAINT,
    latent_scale=0.45,  # 1 / latent_std of the autoencoder, 2.25
    prompt_tokens=0,
    # Denser near the image, where classes are decided.
    train_times=('beta', {'a': 2.0}),
  )
  config.task = ConfigDict({'name': 'semantic'})
  config.sample = semflow_common.sample()
  config.optimizer = semflow_common.adamw(
    7e-4,
    schedule='cosine',
    end_factor=0.01,
    warmup_steps=100,
    ema_decay=0.998,
  )
  config.train = common.train(
    8000, save_every=1000, eval_every=4000, best_metric='miou'
  )
  config.eval = common.evaluation(batch_size=32)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = semflow_common.start_from_trained(IMAGES)
  config = schema.complete(config)
  semflow_common.choose(config, chosen, FLOW, teacher_steps=10)
  if 'scratch' in chosen:
    config.init_from = ()
  return config
