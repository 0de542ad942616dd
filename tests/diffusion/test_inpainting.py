"""Laws of inpainting: what is given stays, what is not is sampled as ever."""

import dataclasses
import functools

import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from looping import COSINE, shrink

from pix2seqd_jax.diffusion import inpainting as inpainting_lib
from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.types import Timesteps

SHAPE = (2, 3, 4)
EPS = process.Process(schedules.StableDiffusion(), 'x1')
# Ends before t = 0, where sigma = 0 and RK45 and Heun would call the network.
GRID = timesteps_lib.Uniform(end=0.05).make(None, 5)
SAMPLERS = {
  'ddim': samplers.DDIM(),
  'ddpm': samplers.DDPM(),
  'heun': samplers.Heun(),
  'rk45': samplers.RK45(0.5, 0.5),  # as few attempts as can be
  'dpm++ 3S': samplers.Singlestep(3),
  'dpm++ 2M': samplers.Multistep(2),
}


def run(known=None, x=None, denoise=shrink, p=COSINE, **kwargs):
  x = jnp.asarray(gaussian.normal(0, SHAPE)) if x is None else x
  keys = gaussian.keys(len(jax.tree.leaves(x)[0]))
  kwargs = {'timesteps': GRID, 'sampler': samplers.DDIM(), **kwargs}
  # Op by op: a compiler may round one program otherwise than another.
  with jax.disable_jit():
    return sampling.sample(denoise, p, x, keys, known=known, **kwargs)


@functools.cache
def plain(sampler):
  return run(sampler=sampler)


def known_of(mask, **kwargs):
  x_0 = jnp.asarray(gaussian.normal(1, SHAPE))
  return inpainting_lib.Known(x_0, jnp.asarray(mask), **kwargs)


def some():
  """Some elements of a mask that all channels share."""
  mask = np.random.default_rng(0).random((*SHAPE[:-1], 1)) < 0.5
  assert mask.any() and not mask.all()
  return mask


@pytest.mark.parametrize('variant', inpainting_lib.VARIANTS)
@pytest.mark.parametrize('name', SAMPLERS)
def test_what_is_given_stays_and_elements_of_their_own_do_not_heed_it(
  name, variant
):
  sampler, mask = SAMPLERS[name], some()
  told = {'sampler': sampler, 'inpainting': variant}
  known = known_of(mask)
  found = run(known, **told)
  where = np.broadcast_to(mask, SHAPE)
  np.testing.assert_array_equal(found[where], known.x_0[where])
  if name != 'rk45':  # its steps look at all elements of an example
    np.testing.assert_array_equal(found[~where], plain(sampler)[~where])
  nothing = run(known_of(np.zeros_like(mask)), **told)
  np.testing.assert_array_equal(nothing, plain(sampler))


@pytest.mark.parametrize('variant', inpainting_lib.VARIANTS)
@pytest.mark.parametrize('returns', sampling.RETURNS)
def test_all_given_is_returned_exactly(variant, returns):
  known = known_of(np.ones((1, 1, 1)))
  found = run(known, inpainting=variant, returns=returns)
  np.testing.assert_array_equal(found, known.x_0)


def test_nothing_is_traced_where_nothing_is_known():
  def made(**kwargs):
    sample = lambda x, keys: sampling.sample(
      shrink, COSINE, x, keys, timesteps=GRID, sampler=samplers.DDIM(), **kwargs
    )
    return str(jax.make_jaxpr(sample)(jnp.zeros(SHAPE), gaussian.keys(2)))

  assert made() == made(known=None, inpainting='repaint')
  assert made() != made(known=known_of(some()))


def states(known, **kwargs):
  """x after each step, and the estimate of x_0 that it was made from."""
  seen = []
  run(known, callback=lambda *args: seen.append(args), **kwargs)
  jax.effects_barrier()
  return [np.asarray(s[2]) for s in seen], [np.asarray(s[3]) for s in seen]


@pytest.mark.parametrize('variant', inpainting_lib.VARIANTS)
@pytest.mark.parametrize('name', ['ddim', 'heun', 'dpm++ 3S', 'dpm++ 2M'])
def test_the_given_part_travels_on_one_straight_path(name, variant):
  """From its x_1 to its x_0, by equation (1), whatever the network says."""
  sampler, mask = SAMPLERS[name], some()
  own = jnp.asarray(gaussian.normal(2, SHAPE))
  known = known_of(mask, x_1=own if variant == 'repaint' else None)
  if variant == 'x0_eps' and not name.startswith('dpm'):
    return  # there the noise is the network's: see the next test
  timesteps, x_1 = inpainting_lib.start(COSINE, GRID, known, own, 0.9)
  after, _ = states(
    known, x=x_1, timesteps=timesteps, sampler=sampler, inpainting=variant
  )
  lands = inpainting_lib.landings(sampler, COSINE, timesteps)
  assert len(lands) == len(after) and lands[-1] == timesteps.next[-1]
  where = np.broadcast_to(mask, SHAPE)
  for x, t in zip(after, lands, strict=True):
    expected = np.asarray(COSINE.mix(known.x_0, own, jnp.full(2, t)))
    np.testing.assert_allclose(x[where], expected[where], atol=2e-5)


def test_the_noise_of_the_given_part_may_be_the_networks_own():
  mask, x_1 = some(), jnp.asarray(gaussian.normal(0, SHAPE))
  known = known_of(mask)
  after, _ = states(known, p=EPS, inpainting='x0_eps')
  moment = EPS.moment(np.float32(GRID.next[0]))
  eps = shrink(x_1, jnp.full(2, 1.0), None).value  # predicts x_1 here
  expected = moment.alpha * known.x_0 + moment.sigma * eps
  where = np.broadcast_to(mask, SHAPE)
  np.testing.assert_allclose(after[0][where], expected[where], atol=1e-5)


@pytest.mark.parametrize('variant', inpainting_lib.VARIANTS)
def test_the_network_is_told_the_pasted_estimate(variant):
  seen = []

  def denoise(x, t, previous):
    jax.debug.callback(
      lambda p: seen.append(np.array(p)), previous, ordered=True
    )
    return gaussian.Prediction(jnp.full_like(x, 0.1) + 0.5 * previous)

  mask = some()
  known, where = known_of(mask), np.broadcast_to(mask, SHAPE)
  run(known, denoise=denoise, self_condition=True, inpainting=variant)
  jax.effects_barrier()
  levels = [0, 0.1, 0.15, 0.175]
  for ours, level in zip(seen, levels):
    np.testing.assert_allclose(ours[~where], level, atol=1e-6)
  for ours in seen[1:]:
    same = ours[where] == known.x_0[where]
    assert same.all() == (variant != 'repaint')


@pytest.mark.parametrize('variant', inpainting_lib.VARIANTS)
def test_twins_follow_the_given_one(variant):
  """Two elements that are always equal, and nothing else is known of them:
  the best network says x_0 = (x_a + x_b) / (2 alpha) for both. With no noise
  and a given, the error of b shrinks by (1 + q) / 2 a step of DDIM, where q is
  what the step makes of sigma / alpha, and by 1/2 in the last estimate."""
  p = process.Process(schedules.Cosine(), 'x0')

  def denoise(x, t, previous):
    both = x.mean(-1, keepdims=True) / p.moment(t).alpha[:, None]
    return gaussian.Prediction(jnp.broadcast_to(both, x.shape))

  value, strength = 0.8, 0.9
  known = inpainting_lib.Known(
    jnp.asarray([[value, 0.0]]), jnp.asarray([[1, 0]]), jnp.zeros((1, 2))
  )
  whole = timesteps_lib.uniform(10)
  timesteps, x = inpainting_lib.start(p, whole, known, known.x_1, strength)
  found = run(
    known, x=x, denoise=denoise, p=p, timesteps=timesteps, inpainting=variant
  )
  now = p.moment(timesteps.now)
  ratios = now.sigma / now.alpha
  error = -value * np.prod((1 + ratios[1:] / ratios[:-1]) / 2) / 2
  if variant == 'x0_eps':  # a itself strays, so only the law of 'stays' holds
    assert found[0, 0] == np.float32(value)
    return
  np.testing.assert_allclose(found, [[value, value + error]], atol=1e-5)


class TestStrength:
  def test_rows_from_there_on(self):
    timesteps = timesteps_lib.uniform(10)
    for strength, first in ((1, 0), (0.95, 1), (0.5, 5), (0.1, 9)):
      rest = inpainting_lib.cut(timesteps, strength)
      for ours, theirs in zip(rest, timesteps, strict=True):
        np.testing.assert_array_equal(ours, theirs[first:])
    # diffusers: 50 trailing steps, strength 0.8: the last 40.
    rest = inpainting_lib.cut(timesteps_lib.Trailing().make(None, 50), 0.8)
    assert len(rest.now) == 40 and rest.now[0] == 0.8

  def test_one_with_nothing_given_is_plain_sampling(self):
    x_1 = jnp.asarray(gaussian.normal(0, SHAPE))
    known = known_of(np.zeros((1, 1, 1)))
    timesteps, x = inpainting_lib.start(COSINE, GRID, known, x_1, 1)
    np.testing.assert_array_equal(
      run(known, x=x, timesteps=timesteps), run(x=x_1)
    )
    assert inpainting_lib.start(COSINE, GRID, None, x_1, 1.0) == (GRID, x_1)

  def test_it_starts_with_the_given_noised(self):
    x_1 = jnp.asarray(gaussian.normal(0, SHAPE))
    known = known_of(np.zeros((1, 1, 1)))
    timesteps, x = inpainting_lib.start(
      COSINE, timesteps_lib.uniform(10), known, x_1, 0.31
    )
    assert timesteps.now[0] == pytest.approx(0.3)
    m = COSINE.moment(0.3)
    expected = m.alpha * known.x_0 + m.sigma * x_1
    np.testing.assert_allclose(x, expected, atol=1e-6)

  def test_less_of_it_keeps_more(self):
    data = process.Process(schedules.Cosine(), 'x0')
    exact = gaussian.exact_denoiser(data)
    x_1 = jnp.asarray(gaussian.normal(0, SHAPE))
    known = known_of(np.zeros((1, 1, 1)))
    far = []
    for strength in (0.2, 0.8):
      start = data, timesteps_lib.uniform(10), known, x_1, strength
      timesteps, x = inpainting_lib.start(*start)
      found = run(known, x=x, denoise=exact, p=data, timesteps=timesteps)
      far.append(float(jnp.abs(found - known.x_0).mean()))
    assert far[0] < far[1]

  @pytest.mark.parametrize('strength', [0, -0.5, 1.5, float('nan'), True, '1'])
  def test_it_lies_in_0_1(self, strength):
    with pytest.raises(ValueError, match=r'strength=.* must lie in \(0, 1\]'):
      inpainting_lib.check_strength(strength)

  def test_other_errors(self):
    with pytest.raises(ValueError, match=r'is below 0\.2, the last of the 5'):
      inpainting_lib.cut(timesteps_lib.uniform(5), 0.1)
    back = timesteps_lib.Uniform(start=0.1, end=0.9).make(None, 5)
    with pytest.raises(ValueError, match='leads to the source'):
      inpainting_lib.cut(back, 0.5)
    with pytest.raises(ValueError, match='but nothing is'):
      inpainting_lib.start(COSINE, GRID, None, jnp.zeros(SHAPE), 0.5)


def test_trees_take_one_mask_or_one_for_each_key():
  x = {'a': jnp.ones((2, 3)), 'b': jnp.ones((2, 3, 2))}
  x_0 = jax.tree.map(jnp.zeros_like, x)
  denoise = lambda x, t, previous: gaussian.Prediction(
    jax.tree.map(lambda leaf: leaf + 0.5, x)
  )
  rows = jnp.asarray([True, False])
  masks = {'a': rows[:, None], 'b': jnp.zeros((1, 1, 1), bool)}
  found = run(inpainting_lib.Known(x_0, masks), x=x, denoise=denoise)
  assert not found['a'][0].any()
  assert found['a'][1].all() and found['b'].all()
  found = run(inpainting_lib.Known(x_0, jnp.ones(1)), x=x, denoise=denoise)
  assert not any(leaf.any() for leaf in found.values())


@dataclasses.dataclass(frozen=True)
class Halves(samplers.DDIM):
  """A sampler whose rows are no rows of the timesteps and do not say where."""

  def tables(self, process, timesteps):
    rows = super().tables(process, timesteps)
    return jax.tree.map(lambda column: column[::2], rows)


def test_errors_come_before_compilation():
  never = lambda x, t, previous: pytest.fail('the network was traced')
  known = known_of(some())
  with pytest.raises(ValueError, match="inpainting='paint' must be one of"):
    run(known, denoise=never, inpainting='paint')
  with pytest.raises(ValueError, match=r'known.x_0 has the shapes \[\(1,'):
    run(known._replace(x_0=jnp.zeros((1, 3, 4))), denoise=never)
  with pytest.raises(ValueError, match=r'known.x_1 has the shapes'):
    run(known._replace(x_1=jnp.zeros((2, 3))), denoise=never)
  with pytest.raises(ValueError, match=r'known.mask \(2, 5, 1\) must be broad'):
    run(known._replace(mask=jnp.zeros((2, 5, 1))), denoise=never)
  with pytest.raises(ValueError, match='tree of the same keys'):
    run(known._replace(mask={'a': jnp.zeros(1)}), denoise=never)
  with pytest.raises(ValueError, match='does not say; use'):
    run(known, denoise=never, sampler=Halves(), inpainting='repaint')
  back = Timesteps(np.array([0.0, 0.5]), np.array([0.5, 1.0]))
  v = process.Process(schedules.Straight(), 'v')
  with pytest.raises(ValueError, match="called at t=0; use 'x0_eps'"):
    run(known, denoise=never, p=v, timesteps=back)
