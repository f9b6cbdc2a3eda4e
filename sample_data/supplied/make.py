"""Makes verses.parquet: the verses of ../verses-0.parquet with columns such as judges and models supply; and labelled/: two translations
of them with entities.

All scores, losses, gradients and entities are synthetic: drawn by a seeded generator or found by a list of names, none comes from a model or
a person who read the verses. They only give the examples of stages that read such columns something to read. usage: make.py (writes beside
itself; numpy and pyarrow)
"""

import re
from pathlib import Path

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet

HERE = Path(__file__).resolve().parent
DIMENSIONS = 16

verses = pyarrow.parquet.read_table(HERE.parent / "verses-0.parquet", columns=["id", "text", "version"])
rows = verses.num_rows
draw = numpy.random.default_rng(20)
task, tasks = numpy.unique(verses["version"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)


def score(low, high, digits=3):
    """Uniform numbers."""
    return pyarrow.array(numpy.round(draw.uniform(low, high, rows), digits))


# Rows of a task point into one direction, more or less; the norms of some tasks are larger.
direction = draw.normal(size=(len(task), DIMENSIONS))
gradient = direction[tasks] + draw.normal(size=(rows, DIMENSIONS)) * 0.8
norm = (1.0 + tasks) * draw.lognormal(0.0, 0.3, rows)
# One score in fifty was not given.
quality = numpy.where(draw.random(rows) < 0.02, numpy.nan, draw.integers(1, 6, rows))

columns = {
    "id": verses["id"],
    "text": verses["text"],
    "task": verses["version"],
    "quality": pyarrow.array(quality, from_pandas=True),
    **{name: score(0, 1) for name in ["relevance", "coherence", "creativity", "integration", "relations", "complexity"]},
    "perplexity": pyarrow.array(numpy.round(draw.lognormal(2.0, 0.5, rows), 4)),
    "el2n": score(0, 1.4, 4),
    "loss": pyarrow.array(numpy.round(draw.gamma(2.0, 1.0, rows), 4)),
    "gradient_norm": pyarrow.array(numpy.round(norm, 4)),
    "gradient": pyarrow.FixedSizeListArray.from_arrays(gradient.astype(numpy.float16).astype(numpy.float32).reshape(-1), DIMENSIONS),
}
pyarrow.parquet.write_table(pyarrow.table(columns), HERE / "verses.parquet", compression="zstd", row_group_size=400)

# Two guides of annotation: they agree on people and places, but one calls a people by the name of its land a place, and God a person.
PERSON = "Aaron Abraham Daniel David Elisha Herod Hezekiah Hiram Isaac Jacob Jesus John Joseph Mary Moses Paul Peter Philip Samuel Saul Solomon"
PLACE = "Assyria Babylon Canaan Egypt Euphrates Gilead Hebron Jerusalem Jordan Macedonia Sinai Zion"
PEOPLE = "Benjamin Israel Jews Judah Pharisees Philistines Sadducees"
GOD = "Almighty God Jehovah Lord"
GUIDES = {
    "Darby": {"PERSON": PERSON, "PLACE": PLACE, "PEOPLE": PEOPLE},
    "YLT": {"Person": f"{PERSON} {GOD}", "Place": f"{PLACE} Israel Judah Benjamin", "People": "Jews Pharisees Philistines Sadducees"},
}
(HERE / "labelled").mkdir(exist_ok=True)
for version, guide in GUIDES.items():
    label = {name: kind for kind, names in guide.items() for name in names.split()}
    names = re.compile(rf"\b({'|'.join(label)})\b")
    own = verses.filter(pyarrow.compute.equal(verses["version"], version)).select(["id", "text"])
    found = [
        [{"name": at[0], "type": label[at[0]], "start": at.start(), "end": at.end()} for at in names.finditer(text)]
        for text in own["text"].to_pylist()
    ]
    kind = pyarrow.struct([("name", pyarrow.utf8()), ("type", pyarrow.utf8()), ("start", pyarrow.int32()), ("end", pyarrow.int32())])
    own = own.append_column("entities", pyarrow.array(found, pyarrow.list_(kind)))
    pyarrow.parquet.write_table(own, HERE / "labelled" / f"{version.lower()}.parquet", compression="zstd")
