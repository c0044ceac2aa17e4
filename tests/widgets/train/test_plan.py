from pathlib import Path

from cellwright.widgets.train.plan import Plan, unfinished, write_plan


def test_a_damaged_plan_hides_no_other(home: Path) -> None:
    for name, text in (("a", "{"), ("b", '{"settings": {"steps": 0}}')):
        (home / "training" / name).mkdir(parents=True)
        (home / "training" / name / "run.json").write_text(text)
    write_plan(Plan("c", "flow", "data"))
    assert unfinished() == [Plan("c", "flow", "data")]
