"""How fast one segmenter is, and where its time goes: `python -m benchmarks --help`."""
