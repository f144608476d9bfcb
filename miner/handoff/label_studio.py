"""Label Studio: a task for each pair, and the labelling interface that goes with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import quoteattr

from miner.handoff.work import Files, Format, Work
from miner.records import Json, canonical
from miner.review import PATTERNS

FILE_TASKS = 250_000
"""Most tasks that Label Studio imports from one file."""

FILE_BYTES = 50 * 10**6
"""Most bytes of one file that it imports."""

_TEXTS = {
    "difference": "The difference in words",
    "question": "A question that the two images answer differently",
    "option_1": "The answer that is right for image 1",
    "option_2": "The answer that is right for image 2",
    "statement_1": "True of image 1 and false of image 2",
    "statement_2": "True of image 2 and false of image 1",
}

USAGE = """\
`tasks-000.json` and so on, `config.xml`, and the images under `images/`. Start Label Studio with
this folder as `LOCAL_FILES_DOCUMENT_ROOT` and `LOCAL_FILES_SERVING_ENABLED=true`, make a project
with `config.xml` as its labelling interface, add the folder `images` as local storage (without
syncing it), and import the task files. What reviewers said before comes as predictions.
"""


def write(work: Work) -> Files:
    """Write tasks, labelling interface and images."""
    (work.folder / "images").mkdir()
    for image, data in work.originals.each(work.handoff.images.values()):
        (work.folder / _file(work, image)).write_bytes(data)
    (work.folder / "config.xml").write_text(config(), "utf-8", newline="\n")
    for number, lines in enumerate(_split(canonical(_task(work, p)) for p in work.handoff.pairs)):
        text = "[\n" + ",\n".join(lines) + "\n]\n"
        (work.folder / f"tasks-{number:03d}.json").write_text(text, "utf-8", newline="\n")
    return {
        pair["pair_id"]: (_file(work, first), _file(work, second))
        for pair in work.handoff.pairs
        for first, second in [work.handoff.both(pair)]
    }


def _file(work: Work, image: Json) -> str:
    return f"images/{work.originals.file_name(image)}"


def _split(tasks: Iterable[str]) -> Iterator[list[str]]:
    """Tasks by the file that they go into."""
    lines: list[str] = []
    num_bytes = 0
    for task in tasks:
        size = len(task.encode()) + 2
        if lines and (len(lines) == FILE_TASKS or num_bytes + size > FILE_BYTES - 100):
            yield lines
            lines, num_bytes = [], 0
        lines.append(task)
        num_bytes += size
    yield lines


def _task(work: Work, pair: Json) -> Json:
    data: Json = {
        "pair_id": pair["pair_id"],
        "rank": pair["rank"],
        "clip_cos": pair["clip_cos"],
        "dino_cos": pair["dino_cos"],
        "cosines": f"rank {pair['rank']}: CLIP {pair['clip_cos']}, DINO {pair['dino_cos']}",
    }
    for number, image in enumerate(work.handoff.both(pair), start=1):
        data[f"image_{number}"] = f"/data/local-files/?d={_file(work, image)}"
        data[f"image_id_{number}"] = image["image_id"]
        data[f"sha256_{number}"] = image["sha256"]
        # An empty text, since the interface shows an error where a field is null.
        data[f"caption_{number}"] = image["caption"] or ""
    said = list(_said(pair))
    return {"data": data} | ({"predictions": [_prediction(said)]} if said else {})


def _said(pair: Json) -> Iterator[Json]:
    """What reviewers said of a pair, as results of the interface's controls."""
    if pair["decision"]:
        yield _result("decision", "choices", [pair["decision"]])
    if pair["pattern"]:
        yield _result("pattern", "choices", [PATTERNS[pair["pattern"]].name])
    for name in _TEXTS:
        if pair[name]:
            yield _result(name, "textarea", [pair[name]])


def _result(control: str, kind: str, words: list[str]) -> Json:
    key = "choices" if kind == "choices" else "text"
    value = {key: words}
    return {
        "id": control,
        "from_name": control,
        "to_name": "image_1",
        "type": kind,
        "value": value,
    }


def _prediction(results: list[Json]) -> Json:
    return {"model_version": "review", "result": results}


def config() -> str:
    """The labelling interface, as XML."""
    lines = ["<View>", '  <Text name="cosines" value="$cosines"/>', '  <View style="display:flex">']
    for number in (1, 2):
        lines += [
            '    <View style="width:50%">',
            f'      <Image name="image_{number}" value="$image_{number}" zoom="true"/>',
            f'      <Text name="caption_{number}" value="$caption_{number}"/>',
            "    </View>",
        ]
    lines += ["  </View>", *_choices("decision", {"accept": "a", "reject": "r"}, required=True)]
    patterns = {pattern.name: str(number) for number, pattern in PATTERNS.items()}
    lines += _choices("pattern", patterns, required=False)
    for name, hint in _TEXTS.items():
        lines.append(
            f'  <TextArea name="{name}" toName="image_1" placeholder={quoteattr(hint)} '
            'editable="true" maxSubmissions="1"/>'
        )
    return "\n".join([*lines, "</View>"]) + "\n"


def _choices(name: str, keys: dict[str, str], *, required: bool) -> list[str]:
    must = ' required="true"' if required else ""
    return [
        f'  <Choices name="{name}" toName="image_1" choice="single" showInline="true"{must}>',
        *(f'    <Choice value="{word}" hotkey="{key}"/>' for word, key in keys.items()),
        "  </Choices>",
    ]


FORMAT = Format(
    name="label-studio",
    summary="Label Studio tasks and their interface",
    usage=USAGE,
    write=write,
)
