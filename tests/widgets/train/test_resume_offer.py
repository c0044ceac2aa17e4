from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from cellwright.training.run_folder import Plan, unfinished, write_plan
from cellwright.training.settings import FinetuneSettings
from cellwright.widgets.train.choices import ResumeOffer


@pytest.fixture
def plan(home: Path) -> Plan:
    """A run that was left."""
    plan = Plan("mine", "flow", "data", FinetuneSettings(steps=7000))
    write_plan(plan)
    return plan


@pytest.fixture
def offer(plan: Plan, qtbot: QtBot) -> ResumeOffer:
    offer = ResumeOffer()
    qtbot.addWidget(offer)
    offer.refresh()
    return offer


def test_a_left_run_can_be_gone_on_with(offer: ResumeOffer, plan: Plan, qtbot: QtBot) -> None:
    assert not offer.isHidden()
    assert offer.line.text() == "The training of 'mine' was left at step 0 of 7,000."
    with qtbot.waitSignal(offer.accepted) as accepted:
        offer.resume.click()
    assert accepted.args == [plan]
    assert unfinished() == [plan]


def test_a_left_run_can_be_discarded(offer: ResumeOffer, qtbot: QtBot) -> None:
    with qtbot.waitSignal(offer.discarded):
        offer.discard.click()
    assert unfinished() == []
    assert offer.isHidden()
