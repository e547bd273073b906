"""The numbers of the README are those of the CSVs, and docs/results.md says where each is from."""

import csv
import re
import statistics

import pytest
from small import ROOT

# The quantile of Student's t that leaves 2.5 % above, for five pairs.
T_FIVE = 2.7764
CLAIMS = ROOT / "docs" / "results.md"
ROW = re.compile(r"\| \[(?P<what>[^\]]+)\]\((?P<csv>docs/results/\w+\.csv)\) \| (?P<numbers>.*) \|")


def last_epochs(path):
    """Returns variant → seed → the test bits/dim of the last epoch."""
    found = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["variant"], {})[row["seed"]] = float(row["test_bpd"])
    return found


def rows():
    text = (ROOT / "README.md").read_text()
    return [match.groupdict() for match in ROW.finditer(text)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["what"])
def test_a_row_of_the_readme_follows_from_its_csv(row):
    found = last_epochs(ROOT / row["csv"])
    levels, glow = found["levels"], found["end_to_end"]
    assert levels.keys() == glow.keys()
    assert len(levels) == 5
    pairs = [levels[seed] - glow[seed] for seed in levels]
    interval = T_FIVE * statistics.stdev(pairs) / len(pairs) ** 0.5
    means = [statistics.mean(own.values()) for own in (levels, glow)]
    difference = f"{statistics.mean(pairs):+.3f}".replace("-", "−")
    expected = [*(f"{mean:.3f}" for mean in means), f"{difference} ± {interval:.3f}"]
    assert [number.strip(" *") for number in row["numbers"].split("|")][:3] == expected


def test_the_readme_has_these_rows():
    assert len(rows()) >= 3


def claims():
    """Returns the table of docs/results.md that says where the README's numbers are from."""
    return CLAIMS.read_text().split("## The numbers of the README\n")[1].split("\n## ")[0]


def test_each_claim_has_a_csv():
    for line in claims().splitlines():
        if line.startswith("| ") and not line.startswith(("| claim", "| ---")):
            paths = re.findall(r"\]\((results/\w+\.csv)\)", line)
            assert paths, line
            assert all((CLAIMS.parent / path).is_file() for path in paths), line


def test_every_number_of_the_readmes_results_is_in_the_table_of_claims():
    text = (ROOT / "README.md").read_text().split("\n## Results\n")[1].split("\n## ")[0]
    for row in rows():  # the means of each row are recomputed above
        text = text.replace(row["numbers"], row["numbers"].split("|", 2)[2])
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for number in re.findall(r"\d+\.\d+|\d+(?= minutes)", text):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", claims()), number
