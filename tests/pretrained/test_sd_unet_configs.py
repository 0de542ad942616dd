"""Which config.json of diffusers are our UNet, and which are refused."""

import pytest
from sd_unets import LDMSEG, ODD, SD1, SD2

from pix2seqd_jax.pretrained import sd_unet

# What diffusers writes beside Stable Diffusion 1.5 and 2.1, then and today.
V1 = {
  '_class_name': 'UNet2DConditionModel',
  '_diffusers_version': '0.6.0',
  'act_fn': 'silu',
  'attention_head_dim': 8,
  'block_out_channels': [320, 640, 1280, 1280],
  'center_input_sample': False,
  'cross_attention_dim': 768,
  'down_block_types': [*3 * ['CrossAttnDownBlock2D'], 'DownBlock2D'],
  'downsample_padding': 1,
  'flip_sin_to_cos': True,
  'freq_shift': 0,
  'in_channels': 4,
  'layers_per_block': 2,
  'mid_block_scale_factor': 1,
  'norm_eps': 1e-05,
  'norm_num_groups': 32,
  'out_channels': 4,
  'sample_size': 64,
  'up_block_types': ['UpBlock2D', *3 * ['CrossAttnUpBlock2D']],
}
V2 = V1 | {
  'attention_head_dim': [5, 10, 20, 20],
  'cross_attention_dim': 1024,
  'use_linear_projection': True,
  'dual_cross_attention': False,
  'num_class_embeds': None,
  'only_cross_attention': False,
  'upcast_attention': True,
}
TODAY = V1 | {
  'addition_embed_type': None,
  'addition_embed_type_num_heads': 64,
  'attention_type': 'default',
  'class_embeddings_concat': False,
  'conv_in_kernel': 3,
  'dropout': 0.0,
  'encoder_hid_dim': None,
  'mid_block_type': 'UNetMidBlock2DCrossAttn',
  'num_attention_heads': None,
  'resnet_out_scale_factor': 1.0,
  'resnet_time_scale_shift': 'default',
  'time_embedding_dim': None,
  'time_embedding_type': 'positional',
  'transformer_layers_per_block': 1,
}


def test_published_configs():
  assert sd_unet.PART.module({}, None) == SD1
  assert sd_unet.PART.module({}, V1) == SD1
  assert sd_unet.PART.module({}, TODAY) == SD1
  assert sd_unet.PART.module({}, V2) == SD2
  lists = {
    'layers_per_block': [2] * 4,
    'cross_attention_dim': [768] * 4,
    'transformer_layers_per_block': [1] * 4,
    'time_embedding_dim': 1280,
  }
  assert sd_unet.PART.module({}, TODAY | lists) == SD1
  for unet in (SD1, SD2, LDMSEG, ODD):
    assert sd_unet.PART.module({}, sd_unet.PART.config(unet)) == unet


@pytest.mark.parametrize(
  'change, rule',
  [
    ({'_class_name': 'UNet2DModel'}, 'UNet2DConditionModel'),
    ({'act_fn': 'gelu'}, "'silu'"),
    ({'center_input_sample': True}, 'False'),
    ({'downsample_padding': 0}, '1'),
    ({'mid_block_scale_factor': 2}, '1'),
    ({'mid_block_type': 'UNetMidBlock2DSimpleCrossAttn'}, 'UNetMidBlock2DCr'),
    ({'transformer_layers_per_block': [1, 2, 10, 10]}, 'the same for all'),
    ({'transformer_layers_per_block': 2}, '1'),
    ({'layers_per_block': [2, 2, 2, 3]}, 'the same for all'),
    ({'cross_attention_dim': [768, 768, 768, 1024]}, 'the same for all'),
    ({'resnet_time_scale_shift': 'scale_shift'}, "'default'"),
    ({'time_embedding_type': 'fourier'}, "'positional'"),
    ({'time_embedding_dim': 320}, '1280'),
    ({'conv_in_kernel': 1}, '3'),
    ({'norm_num_groups': None}, 'a number'),
    ({'dual_cross_attention': True}, 'off'),
    ({'only_cross_attention': True}, 'off'),
    ({'addition_embed_type': 'text_time'}, 'off'),
    ({'class_embed_type': 'timestep'}, 'off'),
    ({'num_class_embeds': 10}, 'off'),
    ({'something_new': 1}, 'off'),
    (
      {'down_block_types': [*3 * ['AttnDownBlock2D'], 'DownBlock2D']},
      'CrossAttnDownBlock2D or DownBlock2D',
    ),
    ({'up_block_types': [*3 * ['CrossAttnUpBlock2D'], 'UpBlock2D']}, 'UpBlock'),
  ],
  ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_configs_of_other_networks(change, rule):
  key = next(iter(change))
  with pytest.raises(ValueError) as error:
    sd_unet.PART.module({}, TODAY | change)
  message = str(error.value)
  assert message.startswith(f'config.json: {key}=')
  assert rule in message.split('it must be')[1]
