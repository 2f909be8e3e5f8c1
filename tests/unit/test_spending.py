"""What attempts and RUNs cost, and what a budget lets start."""

import pytest

from agentdistill.errors import UsageError
from agentdistill.models.scripted import ScriptedModel
from agentdistill.stages.spending import Account, Budget, Meter, MeteredModel, Price, total
from agentdistill.types import Completion, Message, Usage

PRICE = Price(input=2.0, output=10.0)
ASKED = [Message(role="user", content="one two three")]


def spend(account: Account, tokens_in: int, tokens_out: int = 0, *, finished: bool = True) -> None:
    meter = account.open()
    meter.count([Completion("", tokens_in=tokens_in, tokens_out=tokens_out)])
    account.settle(meter, meter.usage(), finished=finished)


def test_a_meter_counts_every_call_and_prices_it() -> None:
    meter = Meter(PRICE)
    model = MeteredModel(ScriptedModel(["a b"]), meter)
    model.sample(ASKED, 2)
    assert [index for index, _ in model.draw(ASKED, 3)] == [0, 1, 2]
    usage = meter.usage()
    assert (usage.tokens_in, usage.tokens_out) == (15, 10)
    assert usage.usd == pytest.approx((15 * 2 + 10 * 10) / 1e6)


def test_an_unknown_price_is_none() -> None:
    meter = Meter()
    meter.count([Completion("", tokens_in=5, tokens_out=5)])
    assert meter.usage().usd is None
    free = Meter(Price(0, 0))
    free.count([Completion("", tokens_in=5, tokens_out=5)])
    assert free.usage().usd == 0


def test_tokens_that_nobody_counted_have_no_price() -> None:
    meter = Meter(PRICE)
    meter.count([Completion("", tokens_in=5, tokens_out=5), Completion("")])
    assert meter.usage().usd is None
    assert meter.usage().tokens_in == 5


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    assert total([Usage(1, 2, 3.0, 0.5), Usage(1, 2, 3.0, 0.25)]) == Usage(2, 4, 6.0, 0.75)
    assert total([Usage(usd=0.5), Usage()]).usd is None


def test_a_run_is_what_earlier_calls_and_failed_tries_cost_too() -> None:
    account = Account(PRICE, None, [Usage(1_000_000, 0, 1.0, 2.0)], [Usage(0, 100_000, 1.0, 1.0)])
    spend(account, 500_000)
    assert account.run.usd == pytest.approx(4.0)
    assert account.call.usd == pytest.approx(1.0)


def test_attempts_from_before_the_price_was_given_are_priced() -> None:
    assert Account(PRICE, None, [Usage(1_000_000, 0)]).run.usd == pytest.approx(2.0)
    assert Account(PRICE, None, [Usage(0, 0)]).run.usd is None  # an endpoint that counts nothing


def test_a_budget_in_usd_needs_a_price_and_names_the_key() -> None:
    with pytest.raises(UsageError, match=r'\[prices\."gpt"\]'):
        Account(None, Budget(usd=1.0), model_id="gpt")
    Account(None, Budget(tokens=1))


def test_nothing_starts_that_is_expected_to_go_beyond_the_budget() -> None:
    account = Account(None, Budget(tokens=1000))
    assert account.affords_another()
    meter = account.open()
    assert not account.affords_another(), "nothing is known of what an attempt costs: one runs at a time"
    meter.count([Completion("", tokens_in=200, tokens_out=100)])
    account.settle(meter, meter.usage(), finished=True)
    # 300 spent, 300 expected for each: two fit beside it, a third does not.
    assert account.affords_another()
    account.open()
    assert account.affords_another()
    account.open()
    assert not account.affords_another()


def test_an_attempt_in_flight_that_has_cost_more_than_expected_counts_with_that() -> None:
    account = Account(None, Budget(tokens=1000), [Usage(100, 0)])
    meter = account.open()
    assert account.affords_another()
    meter.count([Completion("", tokens_in=850, tokens_out=0)])
    assert not account.affords_another()


def test_failed_tries_use_the_budget_up() -> None:
    account = Account(None, Budget(tokens=1000), [Usage(100, 0)])
    spend(account, 850, finished=False)
    assert not account.affords_another()


def test_a_budget_is_not_kept_by_guessing() -> None:
    account = Account(None, Budget(tokens=1000))
    meter = account.open()
    meter.count([Completion("")])
    with pytest.raises(UsageError, match="how many tokens"):
        account.settle(meter, meter.usage(), finished=True)
