"""Commands that measure: `python -m benchmarks.NAME`, from the repo root."""
