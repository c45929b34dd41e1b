#!/usr/bin/env python3
"""Makes train.tsv, valid.tsv and test.tsv from CLINC150's own files.

  python3 datasets/clinc150/convert.py data_full.json domains.json [TARGET_FOLDER]

Both files are in https://github.com/clinc/oos-eval under data/ (data_full.json may be packed as .xz). Out-of-scope
sentences are left out: they belong to no domain.
"""
import json
import lzma
import sys
from pathlib import Path


def read_json(path):
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def main(data_path, domains_path, target="."):
    domain_of = {intent: domain for domain, intents in read_json(domains_path).items() for intent in intents}
    data = read_json(data_path)
    for split, name in [("train", "train"), ("val", "valid"), ("test", "test")]:
        with open(Path(target) / f"{name}.tsv", "w", encoding="utf-8", newline="\n") as out:
            out.write("text\tlabel\tintent\n")
            for text, intent in data[split]:
                if any(character in text for character in "\t\r\n"):
                    raise ValueError(f"{split}: {text!r} does not fit in a TSV field")
                out.write(f"{text}\t{domain_of[intent]}\t{intent}\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
