"""service/store/journal.py."""

from service.store.interface import Amounts, Scope, Spending
from service.store.journal import MAX_AGE_SECONDS, Journal

SCOPES = (Scope("kiosk"),)


def test_last_report_of_each_record_is_kept_in_the_order_of_the_first() -> None:
    """With the highest amounts, and final once it was."""
    journal = Journal()
    journal.add(Spending("a", SCOPES, Amounts(5, 1), is_final=True), 0)
    journal.add(Spending("b", SCOPES, Amounts(1)), 0)
    journal.add(Spending("a", SCOPES, Amounts(3, 2)), 0)
    assert journal.first(9) == [Spending("a", SCOPES, Amounts(5, 2), True), Spending("b", SCOPES, Amounts(1))]
    assert len(journal.first(1)) == 1


def test_report_that_came_while_an_earlier_one_was_sent_stays() -> None:
    """Only what was sent is forgotten."""
    journal = Journal()
    journal.add(Spending("a", SCOPES, Amounts(1)), 0)
    sent = journal.first(9)
    journal.add(Spending("a", SCOPES, Amounts(2)), 0)
    journal.sent(sent)
    assert journal.first(9) == [Spending("a", SCOPES, Amounts(2))]
    journal.sent(journal.first(9))
    assert len(journal) == 0


def test_journal_is_bounded() -> None:
    """A record that is in it can still be reported."""
    journal = Journal(1)
    assert journal.add(Spending("a", SCOPES, Amounts(1)), 0)
    assert not journal.add(Spending("b", SCOPES, Amounts(1)), 0)
    assert journal.add(Spending("a", SCOPES, Amounts(2)), 0)


def test_old_reports_are_dropped() -> None:
    """The store may have forgotten the record, and would count it again."""
    journal = Journal()
    journal.add(Spending("a", SCOPES, Amounts(1)), 0)
    journal.add(Spending("b", SCOPES, Amounts(1)), 1)
    assert journal.drop_old(MAX_AGE_SECONDS + 0.5) == 1
    assert [report.record for report in journal.first(9)] == ["b"]
