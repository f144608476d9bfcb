import numpy as np

from miner.config import SelectSettings
from miner.selecting.steps import STEPS
from miner.selecting.verdicts import Step, Verdict, first_of


def test_the_first_case_counts() -> None:
    found = first_of((np.array([True, False, False]), "a"), (np.array([True, True, False]), "b"))
    assert found.tolist() == ["a", "b", ""]


def test_values_are_put_in_and_never_read_as_a_template() -> None:
    step = Step(
        name="test",
        verdicts={"word": Verdict(counted="x", told="{value} over {settings.max_per_image}")},
        is_asked=lambda settings: True,
        decide=lambda pairs, settings, rows: first_of((rows > 0, "word")),
        values=lambda pairs, settings, row: {"value": "{settings.__class__}"},
    )
    told = step.tell("word", None, SelectSettings(), 0)  # type: ignore[arg-type]
    assert told == "{settings.__class__} over 2"


def test_sentences_name_settings_that_exist() -> None:
    for step in STEPS:
        for verdict in step.verdicts.values():
            fields = [part.split("}")[0] for part in verdict.told.split("{settings.")[1:]]
            assert {field.split(":")[0] for field in fields} <= SelectSettings.model_fields.keys()
