"""One file, one paper. Importing the package registers every model."""

from pix2seqd_jax.models import image_autoencoder as image_autoencoder
from pix2seqd_jax.models import ldmseg as ldmseg
from pix2seqd_jax.models import mask_autoencoder as mask_autoencoder
from pix2seqd_jax.models import mask_classifier as mask_classifier
from pix2seqd_jax.models import pix2seq_d as pix2seq_d
from pix2seqd_jax.models import reflow as reflow
from pix2seqd_jax.models import semantic_dsm as semantic_dsm
from pix2seqd_jax.models import semflow as semflow
