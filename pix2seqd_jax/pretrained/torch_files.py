"""Files of PyTorch weights as {name: tensor}, read one tensor at a time.

safetensors (one file, or shards with their index), a folder that holds either,
and PyTorch's own files if torch is installed. Nothing in a file is ever
executed: pickles are read by torch with weights_only=True, or not at all.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

# In the order in which a folder is searched, as diffusers and transformers do.
STEMS = ('diffusion_pytorch_model', 'model', 'pytorch_model')
_NAMES = tuple(
  stem + ending
  for ending in ('.safetensors', '.safetensors.index.json', '.bin')
  for stem in STEMS
)
# What DeepSpeed writes of a model beside the states of its optimizer, in a
# folder of accelerate's or its own.
_DEEPSPEED = 'mp_rank_00_model_states.pt'
_DEEPSPEED_NAMES = (f'pytorch_model/{_DEEPSPEED}', _DEEPSPEED)
_PICKLES = ('.bin', '.pt', '.pth', '.ckpt')
_TYPES = {
  'F64': 'float64',
  'F32': 'float32',
  'F16': 'float16',
  'BF16': 'bfloat16',
  'I64': 'int64',
  'I32': 'int32',
  'I16': 'int16',
  'I8': 'int8',
  'U8': 'uint8',
  'BOOL': 'bool',
}
# Where a training script puts a model beside its optimizer.
_KEYS = ('state_dict', 'model', 'module', 'model_state_dict', 'ema')


class Tensor:
  """An array in a file: its shape and type at once, its values on demand."""

  def __init__(
    self,
    shape: tuple[int, ...],
    dtype: str,
    read: Callable[[], np.ndarray],
  ):
    self.shape, self.dtype, self._read = tuple(shape), dtype, read

  def __array__(self, dtype: Any = None, copy: bool | None = None):
    value = self._read()
    return value if dtype is None else value.astype(dtype, copy=False)


def read(
  path: str | os.PathLike, key: str | tuple[str, ...] | None = None
) -> dict[str, Tensor]:
  """The tensors of a file or of a folder, by name.

  Args:
    path: a .safetensors file, its .index.json, a .bin/.pt/.pth/.ckpt file, or
      a folder with one that has its usual name.
    key: where in a .pt file the weights are; None: found if it is clear.
      Several: their names begin with their key and a dot, as in a file that
      is not nested.

  Raises:
    ValueError: no such file, a truncated one, a missing shard, a pickle that
      holds more than tensors, an unknown type.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = _in_folder(path)
  if not path.is_file():
    raise ValueError(f'{path} does not exist; name a file of weights.')
  with open(path, 'rb') as file:
    if file.read(40).startswith(b'version https://git-lfs'):
      raise ValueError(
        f'{path} is a pointer of Git LFS, not the file: run git lfs pull.'
      )
  if path.name.endswith('.index.json'):
    return _read_shards(path)
  if path.suffix in _PICKLES:
    return _read_pickle(path, key)
  if path.suffix != '.safetensors':
    raise ValueError(
      f'{path} is no file of weights by its name; it must end in .safetensors, '
      f'.safetensors.index.json, {", ".join(_PICKLES)}.'
    )
  return _read_safetensors(path)


def read_all(
  path: str | os.PathLike, key: str | tuple[str, ...] | None = None
) -> dict[str, Tensor]:
  """As `read`; of a folder all files of weights in it, as one.

  Raises:
    ValueError: as `read`; or two of them have a name in common.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return read(path, key)
  found: dict[str, Tensor] = {}
  files = [p for p in path.iterdir() if p.suffix in ('.safetensors', *_PICKLES)]
  for file in sorted(files):
    more = read(file, key)
    both = sorted(found.keys() & more.keys())
    if both:
      raise ValueError(
        f'{file} has {both[0]} and {len(both) - 1} more that another file of '
        'its folder has, too; leave one of them there.'
      )
    found |= more
  return found if found else read(path, key)


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
  for name in (*_NAMES, *_DEEPSPEED_NAMES):
    if (folder / name).is_file():
      return folder / name
  halves = [
    folder / name.replace('.safetensors', '.fp16.safetensors')
    for name in _NAMES
    if name.endswith('.safetensors')
  ]
  halves = [path for path in halves if path.is_file()]
  if len(halves) == 1:  # whoever casts it says so
    return halves[0]
  others = sorted(
    p.name
    for p in folder.iterdir()
    if p.suffix in ('.safetensors', *_PICKLES) or p.name.endswith('.index.json')
  )
  found = f'; it has {", ".join(others)}: name one of them' if others else ''
  raise ValueError(f'{folder} holds none of {", ".join(_NAMES)}{found}.')


def _read_safetensors(path: pathlib.Path) -> dict[str, Tensor]:
  tensors = {}
  with _opened(path) as file:
    for name in file.keys():  # noqa: SIM118 -- not a mapping
      part = file.get_slice(name)
      kind = part.get_dtype()
      if kind not in _TYPES:
        raise ValueError(
          f'{path}: {name} has the type {kind}, which is none of '
          f'{", ".join(_TYPES)}; save it in one of them.'
        )
      tensors[name] = Tensor(
        part.get_shape(), _TYPES[kind], lambda name=name: _value(path, name)
      )
  return tensors


def _value(path: pathlib.Path, name: str) -> np.ndarray:
  # Opened for each tensor: what is read through one mapping of the file stays
  # in memory until it is closed, which would be a second copy of the weights.
  with _opened(path) as file:
    return file.get_tensor(name)


def _opened(path: pathlib.Path):
  import safetensors

  try:
    return safetensors.safe_open(path, framework='numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path} is not a whole safetensors file ({error}); it was cut short or '
      'is of another kind. Download it again.'
    ) from error


def _read_shards(index: pathlib.Path) -> dict[str, Tensor]:
  """The tensors of all shards that an index names."""
  try:
    places = json.loads(index.read_text())['weight_map']
    files = sorted(set(places.values()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{index} is no index of shards: it needs a "weight_map" of names to '
      f'files ({error!r}).'
    ) from error
  for name in files:
    if not isinstance(name, str) or pathlib.PurePath(name).name != name:
      raise ValueError(
        f'{index} names the shard {name!r}; a shard is a file beside its index.'
      )
  missing = [name for name in files if not (index.parent / name).is_file()]
  if missing:
    raise ValueError(
      f'{index} names {len(files)} shards and {len(missing)} are missing: '
      f'{", ".join(missing)}. Put them beside the index.'
    )
  shards = {name: read(index.parent / name) for name in files}
  lost = [name for name, file in places.items() if name not in shards[file]]
  if lost:
    raise ValueError(
      f'{index} promises {len(lost)} tensors that its shards do not hold: '
      f'{", ".join(lost[:10])}.'
    )
  return {name: shards[file][name] for name, file in places.items()}


def _read_pickle(
  path: pathlib.Path, key: str | tuple[str, ...] | None
) -> dict[str, Tensor]:
  whole = _unpickled(path)
  found = _several(whole, key) if isinstance(key, tuple) else {}
  if not found:
    key = None if isinstance(key, tuple) else key
    found = _state_dict(path, whole, key)
  return {
    name: Tensor(
      tuple(value.shape),
      str(value.dtype).removeprefix('torch.'),
      lambda value=value: _from_torch(value),
    )
    for name, value in found.items()
  }


def _unpickled(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      f'{path} is a PyTorch file, which only torch reads safely: pip install '
      'torch, or name the .safetensors file of the same weights.'
    ) from error
  import pickle

  try:
    options = {'map_location': 'cpu', 'weights_only': True}
    with torch.serialization.safe_globals(_numpy_scalars()):
      try:
        return torch.load(path, mmap=True, **options)
      except RuntimeError:  # files of torch before 1.6 cannot be mapped
        return torch.load(path, **options)
  except pickle.UnpicklingError as error:
    raise ValueError(
      f'{path} holds Python objects beside tensors, and reading them would '
      'execute code of the file. It is refused; save its tensors as '
      f'safetensors where you trust it. ({_first_line(error)})'
    ) from error
  except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
    raise ValueError(
      f'{path} is no whole PyTorch file of weights: {_first_line(error)}'
    ) from error


def _numpy_scalars() -> list[Any]:
  """What makes a NumPy number of its bytes: a metric beside the weights."""
  make = np.array(0.0)[()].__reduce__()[0]
  names = ('numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar')
  kinds = {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
  return [*((make, name) for name in names), np.dtype, *kinds]


def _first_line(error: Exception) -> str:
  return next(iter(str(error).splitlines()), type(error).__name__)


def _is_tensor(value: Any) -> bool:
  return all(hasattr(value, a) for a in ('shape', 'dtype', 'detach'))


def _weights(found: Any) -> dict[str, Any]:
  """The tensors of a mapping, by name."""
  if not isinstance(found, Mapping):
    return {}
  return {
    k: v for k, v in found.items() if isinstance(k, str) and _is_tensor(v)
  }


def _several(found: Any, keys: tuple[str, ...]) -> dict[str, Any]:
  """The state dicts under these keys as one, names behind their key."""
  nested = found if isinstance(found, Mapping) else {}
  return {
    f'{key}.{name}': value
    for key in keys
    for name, value in _weights(nested.get(key)).items()
  }


def _state_dict(
  path: pathlib.Path, found: Any, key: str | None
) -> dict[str, Any]:
  nested = {} if not isinstance(found, Mapping) else found
  choices = [k for k, v in nested.items() if _weights(v)]
  # A counter that is a tensor is no state dict, where there is one beside it.
  if key is None and _weights(found) and not choices:
    return _weights(found)
  if key is None:
    known = [k for k in _KEYS if k in choices]
    key = next(iter(known or (choices if len(choices) == 1 else ())), None)
  if key not in choices:
    raise ValueError(
      f'{path} holds no weights{"" if key is None else f" under {key!r}"}; '
      f'name with key= (--key) one of {sorted(map(str, choices))}.'
      if choices
      else f'{path} holds no tensors by name.'
    )
  return _weights(nested[key])


def _from_torch(value: Any) -> np.ndarray:
  import torch

  value = value.detach()
  if value.dtype == torch.bfloat16:  # NumPy has none of its own
    import ml_dtypes

    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
  return value.numpy()


def half_precision(tensors: Mapping[str, Tensor]) -> Iterator[str]:
  """The names of those in float16 or bfloat16."""
  return (
    name
    for name, tensor in tensors.items()
    if tensor.dtype in ('float16', 'bfloat16')
  )
