"""The reference pages that follow from the code: `python -m scripts.reference` (`make docs`)."""

GENERATED = "Generated from `{}` by `make docs`."
