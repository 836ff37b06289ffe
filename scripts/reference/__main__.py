"""Write them all: `python -m scripts.reference`."""

from scripts.reference.pages import ROOT, pages

for path, text in pages().items():
    (ROOT / path).write_text(text)
    print(path)
