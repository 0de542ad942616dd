"""Other people's checkpoints -> our trees of parameters, strictly."""
