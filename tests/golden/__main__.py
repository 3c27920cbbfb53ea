"""Regeneration of the golden metrics: `make golden`. Review the difference like code."""

from tests.golden.golden import CASES, FOLDER, dump, metrics

if __name__ == "__main__":
    for case in CASES:
        (FOLDER / f"{case}.json").write_text(dump(metrics(case)))
        print(f"{case}: written")
