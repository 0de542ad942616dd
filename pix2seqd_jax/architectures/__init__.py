"""Networks as functions of arrays: no diffusion, no labels, no mesh."""
