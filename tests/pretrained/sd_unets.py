"""UNets that the tests of their names and of their configs share."""

from pix2seqd_jax.architectures.sd_unet import SDUNet

SD1 = SDUNet()
SD2 = SDUNet(num_heads=(5, 10, 20, 20), context_dim=1024, linear=True)
LDMSEG = SDUNet(in_channels=12, context_dim=None)
SMALL = SDUNet(
  channels=(16, 32, 32, 32), num_layers=1, num_heads=4, context_dim=32, groups=8
)
# Nothing of it is as in Stable Diffusion.
ODD = SDUNet(
  in_channels=5,
  out_channels=3,
  channels=(4, 8, 6),
  has_attention=(False, True, True),
  num_layers=2,
  num_heads=(1, 4, 3),
  context_dim=7,
  linear=True,
  groups=2,
  epsilon=1e-4,
  flip_sin_to_cos=False,
  freq_shift=1,
  dropout=0.1,
)
