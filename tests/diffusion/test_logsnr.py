"""Half the log signal-to-noise ratio and its inverse."""

import numpy as np
import pytest

from pix2seqd_jax.diffusion import logsnr, schedules
from pix2seqd_jax.diffusion.process import Process


@pytest.mark.parametrize('name', sorted(schedules.SCHEDULES))
def test_inverse(name):
  process = Process(schedules.SCHEDULES[name](), 'v')
  t = np.linspace(0.01, 0.98, 50)
  back = logsnr.time_of(process, logsnr.half_logsnr(process, t))
  np.testing.assert_allclose(back, t, atol=1e-13)


def test_falls_and_is_infinite_at_the_ends_of_the_straight_schedule():
  process = Process(schedules.Straight(), 'x0')
  values = logsnr.half_logsnr(process, np.linspace(0, 1, 11))
  assert np.isposinf(values[0]) and np.isneginf(values[-1])
  assert (np.diff(values) < 0).all()


def test_out_of_reach():
  process = Process(schedules.StableDiffusion(), 'x0')
  with pytest.raises(ValueError, match='is not reached'):
    logsnr.time_of(process, [-20.0])
