"""A model of ours out of a checkpoint, and of what its config starts from."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from pix2seqd_jax.pretrained import sources
from pix2seqd_jax.train import sharding
from pix2seqd_jax.train.checkpoints import weights


def rest(
  experiment: Any, family: sources.Source, found: Mapping[str, sources.Found]
) -> dict[str, Any]:
  """What a config's model has beside the networks of a checkpoint.

  It comes out of the directories of config.init_from, of those entries that
  are for none of the checkpoint's networks.

  Args:
    experiment: a build.Experiment.
    family: whose checkpoint.
    found: its networks, by part.

  Returns:
    {path in the parameters: array}.

  Raises:
    ValueError: the model has other parameters than were found, or nothing in
      config.init_from brings those that were not.
  """
  if not family.places:
    places = [k for k, v in sources.SOURCES.items() if v.places]
    raise ValueError(
      '--config goes with checkpoints that are a model of ours, or most of '
      f'one: {", ".join(places)}, pix2seq-tf.'
    )
  tree = jax.eval_shape(
    experiment.model.init, jax.random.key(0), experiment.abstract_batch()
  )
  expected = {k: v.shape for k, v in sharding.flat_paths(tree).items()}
  given = {
    f'{family.place(name)}/{path}': leaf.shape
    for name, one in found.items()
    for path, leaf in sharding.flat_paths(
      dict(family.parts[name].shapes(one.module)['params'])
    ).items()
  }
  places = tuple(f'{family.place(name)}/' for name in found)
  more = {}
  if any(not k.startswith(places) for k in expected.keys() - given.keys()):
    more = _started(experiment, tree, places)
  problems = [
    f'missing: {k} {expected[k]}'
    for k in expected.keys() - given.keys() - more.keys()
  ]
  problems += [f'extra: {k}' for k in given.keys() - expected.keys()]
  problems += [
    f'misshapen: {k} is {given[k]}, the model has {expected[k]}'
    for k in given.keys() & expected.keys()
    if given[k] != expected[k]
  ]
  if problems:
    raise ValueError(
      f'{len(problems)} arrays are not those of the model of --config, among '
      'them:\n  ' + '\n  '.join(sorted(problems)[:20])
    )
  return more


def _started(experiment, tree, places) -> dict[str, Any]:
  """The arrays that config.init_from brings beside what is at `places`."""
  entries = [
    entry
    for entry in experiment.init_from
    if not f'{entry[2]}/'.startswith(places)
  ]
  started, _ = weights.init_from(tree, entries)
  return {
    path: leaf
    for path, leaf in sharding.flat_paths(started).items()
    if not (isinstance(leaf, jax.ShapeDtypeStruct) or path.startswith(places))
  }


def merged(
  params: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
  """A tree of parameters with these arrays, {path: array}, too."""
  flat = traverse_util.flatten_dict(dict(params), keep_empty_nodes=True)
  for path, leaf in more.items():
    flat[tuple(path.split('/'))] = leaf
  return traverse_util.unflatten_dict(flat)
