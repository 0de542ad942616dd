"""transformers' numbers, and what holds of any such tower."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest
from safetensors.numpy import load_file

from pix2seqd_jax.architectures import clip_layers
from pix2seqd_jax.architectures.clip_text import CLIPText
from pix2seqd_jax.pretrained import clip, part

ORACLE = 'diffusers/clip_text.npz'
BOUND = 2e-6


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def oracle(shared):
  """(module, variables, arrays) of the oracle."""
  stem = shared / 'oracles' / 'diffusers' / 'clip_text'
  tensors = load_file(stem.with_suffix('.safetensors'))
  config = json.loads(stem.with_suffix('.config.json').read_text())
  module, plan = part.plan(clip.TEXT, tensors, config)
  arrays = oracles.load_npz(stem.with_suffix('.npz'))
  return module, plan.tree(tensors), arrays


@pytest.mark.parametrize(
  ('dtype', 'scan'), [('float32', True), ('float64', False)]
)
def test_transformers(oracle, dtype, scan):
  module, variables, arrays = oracle
  ids = jnp.asarray(arrays['input_ids'], jnp.int32)
  mask = jnp.asarray(arrays['attention_mask'] == 1)
  # The layers' own outputs once: compiling takes most of the time.
  layers = range(1, module.num_layers if scan else 1)
  with jax.enable_x64(dtype == 'float64'):
    module = module.clone(dtype=jnp.dtype(dtype), scan=scan)

    @jax.jit
    def run(variables):
      whole = module.apply(variables, ids)
      masked = module.apply(variables, ids, mask)
      return {
        'last_hidden_state': whole.hidden,
        'pooler_output': whole.pooled,
        'last_hidden_state_len7': module.apply(variables, ids[:, :7]).hidden,
        'last_hidden_state_masked': masked.hidden,
        'pooler_output_masked': masked.pooled,
      } | {
        f'hidden_states/{n}': module.apply(
          variables, ids, skip=module.num_layers - n
        ).hidden
        for n in layers
      }

    ours = run(variables)
  assert ours['pooler_output'].dtype == dtype
  norm = variables['params']['final_layer_norm']
  for n in layers:
    arrays = arrays | {
      f'hidden_states/{n}': _norm(arrays[f'hidden_states/{n}'], norm)
    }
  for key, value in ours.items():
    parity.check(ORACLE, f'{key} {dtype}', value, arrays[key], BOUND)


def _norm(x, params):
  x = x.astype(np.float64)
  x = x - x.mean(-1, keepdims=True)
  x /= np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
  return x * params['scale'] + params['bias']


def tiny(**changes):
  fields = {
    'vocab_size': 20,
    'width': 8,
    'num_layers': 2,
    'num_heads': 2,
    'mlp_dim': 12,
    'num_positions': 6,
  }
  return CLIPText(**(fields | changes))


IDS = jnp.asarray([[1, 5, 19, 3, 19, 0], [2, 19, 7, 7, 7, 4]])


@pytest.fixture(scope='module')
def variables():
  return oracles.random_variables(tiny(), IDS)


@pytest.fixture(scope='module')
def run(variables):
  """(ids, mask) -> states of the tiny tower, compiled once."""
  return jax.jit(lambda ids, mask: tiny().apply(variables, ids, mask))


ALL = jnp.ones(IDS.shape, bool)


def test_a_token_sees_those_before_it_and_itself(run):
  hidden = run(IDS, ALL).hidden
  other = run(IDS.at[:, 3].set(9), ALL).hidden
  np.testing.assert_array_equal(hidden[:, :3], other[:, :3])
  assert (jnp.abs(hidden - other).max(axis=(0, 2))[3:] > 1e-3).all()


def test_padding_that_is_masked_changes_nothing(run):
  mask = ALL.at[:, 1].set(False)  # else causality hides the change
  other = IDS.at[:, 1].set(9)
  kept = np.array([0, 2, 3, 4, 5])
  masked = run(IDS, mask).hidden[:, kept]
  np.testing.assert_array_equal(masked, run(other, mask).hidden[:, kept])
  assert jnp.abs(masked - run(IDS, ALL).hidden[:, kept]).max() > 1e-3


def test_an_id_outside_the_vocabulary_is_seen(run):
  assert jnp.isnan(run(IDS.at[0, 1].set(20), ALL).hidden).any()


def test_which_token_is_pooled(variables, run):
  hidden, pooled = run(IDS, ALL)
  np.testing.assert_array_equal(
    pooled, hidden[jnp.arange(2), jnp.array([2, 1])]
  )
  apply = jax.jit(tiny(eos_id=7).apply)
  # A text without it is pooled at its first token, as in transformers.
  expected = hidden[jnp.arange(2), jnp.array([0, 2])]
  np.testing.assert_allclose(apply(variables, IDS).pooled, expected, rtol=1e-5)


def test_how_it_is_computed_changes_nothing(variables):
  def gradient(**changes):
    module = tiny(**changes)

    def loss(variables):
      return jnp.sum(jnp.sin(module.apply(variables, IDS).hidden))

    return jax.jit(jax.grad(loss))(variables)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    gradient(remat=True, scan=False),
    gradient(),
  )


def test_remat_keeps_less():
  def residuals(**changes):
    module = tiny(num_layers=4, **changes)
    variables = clip.text_shapes(module)

    def loss(variables):
      return module.apply(variables, IDS).hidden.sum()

    _, vjp = jax.eval_shape(lambda v: jax.vjp(loss, v), variables)
    return sum(leaf.size for leaf in jax.tree.leaves(vjp))

  assert residuals(remat=True) < 0.8 * residuals()


def test_half_precision_computes_in_it_and_keeps_parameters(variables, run):
  module = tiny(dtype=jnp.bfloat16)
  hidden, pooled = jax.jit(module.apply)(variables, IDS)
  assert hidden.dtype == pooled.dtype == jnp.bfloat16
  assert parity.relative_error(hidden, run(IDS, ALL).hidden) < 0.03
  leaves = jax.tree.leaves(clip.text_shapes(module))
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


def test_activations_are_their_formulas():
  x = np.linspace(-5, 5, 31, dtype=np.float32)
  exact = [v * (1 + math.erf(v / 2**0.5)) / 2 for v in x]
  quick = x / (1 + np.exp(-1.702 * x))
  found = {k: f(jnp.asarray(x)) for k, f in clip_layers.ACTIVATIONS.items()}
  assert parity.relative_error(found['gelu'], exact) < 1e-6
  assert parity.relative_error(found['quick_gelu'], quick) < 1e-6


def count(module):
  leaves = jax.tree.leaves(clip.text_shapes(module))
  return sum(leaf.size for leaf in leaves)


def test_number_of_parameters():
  assert count(CLIPText()) == 123_060_480
  # Stable Diffusion 2.x: 24 layers of 1024, the last left out.
  large = CLIPText(
    width=1024, num_layers=23, num_heads=16, mlp_dim=4096, activation='gelu'
  )
  assert count(large) == 340_387_840


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'num_heads': 3}, 'width=8 must be a multiple of num_heads=3'),
    ({'activation': 'relu'}, "activation='relu' is unknown; choose one of"),
    ({'attention': 'flash'}, "attention='flash' is unknown"),
    ({'attention': 'cudnn'}, "attention='cudnn' cannot run"),
    ({'num_positions': 5}, 'text of 6 tokens is longer than num_positions=5'),
  ],
  ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_errors(changes, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(tiny(**changes).init, jax.random.key(0), IDS)


def test_a_layer_must_be_left(variables):
  with pytest.raises(ValueError, match='skip=2 must leave at least one'):
    jax.eval_shape(lambda: tiny().apply(variables, IDS, skip=2))
