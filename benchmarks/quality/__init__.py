"""How good the segments are: a stream played through core and trainer, held against a batch."""
