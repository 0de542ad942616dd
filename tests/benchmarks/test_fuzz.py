"""A short form of benchmarks/fuzz.py."""

import random

from benchmarks import fuzz


def test_overrides_and_files():
  rng = random.Random(7)
  counts, failures, slowest = fuzz.fuzz_overrides(150, 10**9, rng)
  assert not failures
  assert counts['refused'] > 50 and counts['accepted'] > 20
  assert slowest < 50
  counts, failures = fuzz.fuzz_files(60, rng)
  assert not failures
  assert counts['refused'] > 20 and counts['read'] > 3


def test_a_foreign_error_is_told():
  assert fuzz.attempt(lambda: 1 // 0).startswith('ZeroDivisionError')
  assert fuzz.attempt(lambda: int('x')).startswith('ValueError')
  assert fuzz.attempt(lambda: None) is None
