"""What is told, once and in bounds, whatever is lost, late or repeated; and how it leaves this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.cloud.budget import spent_of
from monai_aws_pipeline.operations.channels import DeliveryError, Topic, Webhook, checked_url, topic_of
from monai_aws_pipeline.operations.notifications import (
    NAMED,
    OVERLAP_SECONDS,
    REMEMBERED_RUNS,
    WINDOW_SECONDS,
    FailedRun,
    FailedStudy,
    Kind,
    Message,
    MissedSchedule,
    Place,
    RaisedAlarm,
    SpentBudget,
    Standing,
    Told,
    after,
    messages,
)
from monai_aws_pipeline.portal.addresses import study_path
from monai_aws_pipeline.settings import Settings, SettingsError, load_settings

NOW = 1_790_000_000.0
PLACE = Place("dev", "https://dagster.example.org")
TOKEN = "T0000000/B0000000/a-token-that-is-a-secret"
ALARM = RaisedAlarm("jobs-dead-letters", "Jobs. A message was received three times.", "2026-03-14 12:00:00 UTC")


def study(event: int, code: str = "map_failed", known: bool = True, at: float = NOW) -> FailedStudy:
    return FailedStudy(event, f"{event:016x}" if known else "", f"{event:032x}", code, at)


def run(number: int, ended: float = NOW) -> FailedRun:
    return FailedRun(f"run-{number}", "build_map", ("map_image",), ended)


def everything() -> Standing:
    return Standing(
        runs=(run(1),),
        studies=(study(7),),
        alarms=(ALARM,),
        budget=SpentBudget("2026-03", 101.5, 100.0),
        schedules=(MissedSchedule("scheduled_orphan_sweep", NOW - 900),),
    )


def told_all(told: Told, standing: Standing, now: float) -> tuple[list[Message], Told]:
    sent = messages(told, standing, now, PLACE)
    return sent, after(told, standing, [message.kind for message in sent], now)


def test_each_kind_is_told_once_and_not_again_while_it_stands():
    told = replace(Told.beginning(NOW, 5), overdue=("scheduled_orphan_sweep",))
    sent, told = told_all(told, everything(), NOW)
    assert [message.kind for message in sent] == [Kind.RUN, Kind.STUDIES, Kind.ALARM, Kind.BUDGET, Kind.SCHEDULE]
    for later in (60, 2 * WINDOW_SECONDS, 20 * WINDOW_SECONDS):
        again, told = told_all(Told.parse(told.to_text()) or Told(), everything(), NOW + later)
        assert again == []


def test_what_fails_within_a_window_is_one_message_after_it():
    told = Told.beginning(NOW, 0)
    first, told = told_all(told, Standing(studies=(study(1),)), NOW)
    assert len(first) == 1
    waiting = tuple(study(number, "no_matching_series" if number % 3 else "map_failed") for number in range(2, 302))
    for minute in range(1, 15):
        sent, told = told_all(told, Standing(studies=waiting[: minute * 20]), NOW + minute * 60)
        assert sent == []
    (grouped,), told = told_all(told, Standing(studies=waiting), NOW + WINDOW_SECONDS)
    assert grouped.subject == "monai-aws dev: 300 studies have no answer"
    assert "no_matching_series 200, map_failed 100" in grouped.text
    assert grouped.text.count("partition=") == NAMED
    assert f"… and {300 - NAMED} more" in grouped.text
    assert len(grouped.text) < 2000
    assert told.studies_after == 301


def test_what_failed_before_anyone_was_told_is_history_however_late_it_is_recorded():
    told = Told.beginning(NOW + 0.9, 5)
    old, new = study(6, at=NOW - 86_400), study(7, at=NOW + 0.899)
    told = after(told, Standing(studies=(old,), read_to=6), [], NOW + 60)
    assert told.studies_after == 6, "nor is it looked at for ever"
    (message,) = messages(told, Standing(studies=(old, new), read_to=7), NOW + 120, PLACE)
    assert message.subject == "monai-aws dev: 1 study has no answer"
    assert study_path(new.study) in message.text


def test_a_cursor_of_an_older_release_goes_on_where_it_was():
    stored = json.loads(Told.beginning(NOW, 5).to_text())
    del stored["since"]
    told = Told.parse(json.dumps(stored))
    assert told
    assert (told.studies_after, told.since) == (5, 0)


def test_what_was_not_delivered_is_told_later_and_other_kinds_do_not_wait_for_it():
    told = Told.beginning(NOW, 0)
    standing = Standing(runs=(run(1),), studies=(study(3),))
    told = after(told, standing, [Kind.RUN], NOW)
    (message,) = messages(told, standing, NOW + 60, PLACE)
    assert message.kind is Kind.STUDIES


def test_the_same_message_has_the_same_number_after_a_death_between_sending_and_the_cursor():
    standing = Standing(studies=(study(3), study(4)))
    assert messages(Told(), standing, NOW, PLACE) == messages(Told(), standing, NOW + 5, PLACE)
    other = messages(Told(), Standing(studies=(study(3),)), NOW, PLACE)
    assert other[0].id != messages(Told(), standing, NOW, PLACE)[0].id


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=40))
def test_every_failure_is_told_exactly_once_whatever_is_not_delivered(steps: list[tuple[int, bool, bool]]):
    """Each step: how many fail before a tick, whether the channel answers, whether the window is over by then."""
    told, failed, named, now = Told.beginning(NOW, 0), 0, 0, NOW
    for number, answers, passed in [*steps, (0, True, True)]:
        failed += number
        now += WINDOW_SECONDS if passed else 60
        standing = Standing(studies=tuple(study(event) for event in range(told.studies_after + 1, failed + 1)))
        sent = messages(told, standing, now, PLACE)
        assert len(sent) <= 1
        if sent and answers:
            told = after(told, standing, [Kind.STUDIES], now)
            named += len(standing.studies)
        else:
            told = after(told, standing, [], now)
        told = Told.parse(told.to_text()) or Told()
    assert named == failed


def test_a_run_whose_end_is_stored_late_is_told_and_those_before_it_are_not_again():
    told = Told.beginning(NOW - 300, 0)
    _, told = told_all(told, Standing(runs=(run(2, NOW),)), NOW)
    late = run(1, NOW - OVERLAP_SECONDS + 5)
    (message,), told = told_all(told, Standing(runs=(late, run(2, NOW))), NOW + WINDOW_SECONDS)
    assert "/runs/run-1" in message.text
    assert "/runs/run-2" not in message.text
    assert told.runs_after == NOW


def test_a_look_that_is_full_of_told_runs_moves_on():
    standing = Standing(runs=tuple(run(number, NOW) for number in range(REMEMBERED_RUNS)))
    (message,), told = told_all(Told.beginning(NOW - 300, 0), standing, NOW)
    assert message.subject == f"monai-aws dev: {REMEMBERED_RUNS} runs failed"
    assert told.runs_after - OVERLAP_SECONDS >= NOW, "the next look begins behind them"
    assert len(told.to_text()) < 10_000


def test_observations_of_other_kinds_do_not_hold_up_those_behind_them():
    told = after(Told.beginning(NOW, 5), Standing(read_to=1005), [], NOW)
    assert told.studies_after == 1005


def test_an_alarm_that_is_over_and_comes_back_is_told_again():
    told = Told.beginning(NOW, 0)
    _, told = told_all(told, Standing(alarms=(ALARM,)), NOW)
    _, told = told_all(told, Standing(alarms=None), NOW + 60)
    assert told_all(told, Standing(alarms=(ALARM,)), NOW + WINDOW_SECONDS)[0] == [], "an account that was not asked forgets nothing"
    _, told = told_all(told, Standing(alarms=()), NOW + 120)
    again = replace(ALARM, since="2026-03-14 13:00:00 UTC")
    assert len(told_all(told, Standing(alarms=(again,)), NOW + 2 * WINDOW_SECONDS)[0]) == 1


def test_a_schedule_is_told_at_the_second_look_and_once_until_it_runs():
    late = Standing(schedules=(MissedSchedule("scheduled_orphan_sweep", NOW - 900),))
    first, told = told_all(Told.beginning(NOW, 0), late, NOW)
    assert first == [], "the daemon may have come back this minute, and run it in the next"
    (message,), told = told_all(told, late, NOW + 120)
    assert "scheduled_orphan_sweep was due at 2026-09-21 13:58 UTC" in message.text
    later = Standing(schedules=(MissedSchedule("scheduled_orphan_sweep", NOW + 2700),))
    for number in range(1, 5):
        sent, told = told_all(told, later, NOW + number * 3600)
        assert sent == [], "each further hour that it does not run says nothing new"
    _, told = told_all(told, Standing(schedules=()), NOW + 20_000)
    _, told = told_all(told, later, NOW + 30_000)
    assert len(told_all(told, later, NOW + 30_120)[0]) == 1


def test_a_budget_is_told_once_a_month_when_it_is_spent():
    told = Told.beginning(NOW, 0)
    assert told_all(told, Standing(budget=SpentBudget("2026-03", 99.99, 100)), NOW)[0] == []
    (message,), told = told_all(told, Standing(budget=SpentBudget("2026-03", 100.0, 100)), NOW)
    assert "100.00 USD of 100.00 USD" in message.text
    assert told_all(told, Standing(budget=SpentBudget("2026-03", 150.0, 100)), NOW + 86400)[0] == []
    april, asked = Standing(budget=SpentBudget("2026-04", 120.0, 100)), told.asked("2026-04-01T00")
    assert after(asked, april, [], NOW + 90_000).budget_asked == "", "not delivered: it is asked for again at the next tick"
    (_,), told = told_all(asked, april, NOW + 90_000)
    assert told.budget_asked == "2026-04-01T00"


def test_a_clock_that_was_set_back_keeps_nothing_waiting():
    told = after(Told.beginning(NOW, 0), Standing(studies=(study(1),)), [Kind.STUDIES], NOW + 86400 * 365)
    assert len(messages(told, Standing(studies=(study(2),)), NOW, PLACE)) == 1


@pytest.mark.parametrize("text", [None, "", "{", "[]", "17", '{"version": 99}', '{"version": 1, "runs_after": "x"}'])
def test_a_cursor_that_is_none_begins_anew(text: str | None):
    assert Told.parse(text) is None


def test_an_upload_without_a_study_is_named_by_its_job():
    (message,) = messages(Told(), Standing(studies=(study(5, "not_a_zip", known=False),)), NOW, PLACE)
    assert f"not_a_zip: an upload whose study is not known, job {5:032x}" in message.text
    assert message.subject == "monai-aws dev: 1 study has no answer"


def test_a_subject_fits_into_snss_hundred_characters():
    long = replace(ALARM, name="x" * 300)
    (message,) = messages(Told(), Standing(alarms=(long,)), NOW, PLACE)
    assert len(message.subject) == 100


# ------------------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("wrong", [f"https://hooks.example.org/{TOKEN}", "arn:aws:sqs:us-east-1:123456789012:q", "two words"])
def test_what_is_no_channel_is_refused_and_an_address_not_repeated(wrong: str):
    with pytest.raises(SettingsError) as refused:
        load_settings(notify=wrong)
    assert "MONAI_AWS_NOTIFY = (not shown)" in str(refused.value)
    assert "secret" in str(refused.value)
    assert wrong not in str(refused.value)


def test_sns_alone_needs_the_topic_of_the_alarms():
    with pytest.raises(SettingsError, match="alarm_topic_arn is empty"):
        load_settings(notify="sns")
    topic = "arn:aws:sns:us-east-1:123456789012:monai-aws-dev-alarms"
    assert topic_of(load_settings(notify="sns", alarm_topic_arn=topic)) == topic


@pytest.mark.parametrize(
    "secret", ["monai-aws/dev/notify", "arn:aws:secretsmanager:us-east-1:123456789012:secret:monai-aws/dev/notify-AbCdEf"]
)
def test_a_secret_is_no_topic(secret: str):
    assert topic_of(Settings(notify=secret)) == ""


# ------------------------------------------------------------------------------------------------------------------------ delivery


@contextmanager
def webhook(status: int = 200, location: str = "") -> Iterator[tuple[str, list[Any]]]:
    """A server on loopback that takes messages; its address, and what came."""
    taken: list[Any] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - http.server's name

        def log_message(self, *_: Any) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Taker) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{TOKEN}", taken
        finally:
            server.shutdown()
            thread.join()


MESSAGE = Message(Kind.RUN, "monai-aws dev: build_map failed", "Deployment dev: build_map failed.", "0a1b2c3d")


def test_a_webhook_gets_the_message_as_text():
    with webhook() as (url, taken):
        Webhook(url).send(MESSAGE)
    assert taken == [(f"/{TOKEN}", {"text": "*monai-aws dev: build_map failed*\nDeployment dev: build_map failed."})]


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_a_webhook_that_does_not_take_it_is_named_without_its_address(status: int):
    with webhook() as (elsewhere, strayed), webhook(status, elsewhere) as (url, _), pytest.raises(DeliveryError) as refused:
        Webhook(url).send(MESSAGE)
    assert f"answered {status}" in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert strayed == [], "nothing goes to where it leads"


def test_a_webhook_that_is_not_there_is_named_without_its_address():
    with webhook() as (url, _):
        pass
    with pytest.raises(DeliveryError) as refused:
        Webhook(url).send(MESSAGE)
    assert "gave no answer (ConnectionRefusedError)" in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert refused.value.__cause__ is None
    assert TOKEN not in repr(Webhook(url))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"http://hooks.example.org/{TOKEN}", "without TLS"),
        (f"http://127.0.0.1.example.org/{TOKEN}", "without TLS"),
        (f"ftp://hooks.example.org/{TOKEN}", "no address"),
        (f"file:///etc/{TOKEN}", "no address"),
        (TOKEN, "no address"),
        (f"https://hooks.example.org:port/{TOKEN}", "no address"),
        (f"https://hooks.example.org/ {TOKEN}", "no address"),
        (f"https://hooks.example.org/\r\n{TOKEN}", "no address"),
    ],
)
def test_what_is_no_address_of_a_webhook_is_refused_and_not_repeated(text: str, why: str):
    with pytest.raises(DeliveryError, match=why) as refused:
        checked_url(text, "monai-aws/dev/notify")
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("text", ["https://hooks.example.org/x\n", "http://127.0.0.1:8065/hooks/x", "http://[::1]:8065/x"])
def test_an_address_with_tls_or_of_this_machine_is_taken(text: str):
    assert checked_url(text, "monai-aws/dev/notify") == text.strip()


def test_a_topic_that_is_gone_is_named():
    sns = boto3.client("sns", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(sns) as stubbed:
        stubbed.add_client_error("publish", "NotFound", "Topic does not exist")
        with pytest.raises(DeliveryError, match=r"There is no topic arn:aws:sns:us-east-1:123456789012:gone\. Correct MONAI_AWS_NOTIFY"):
            Topic(sns, "arn:aws:sns:us-east-1:123456789012:gone").send(MESSAGE)


def test_what_was_spent_is_read_as_budgets_says_it():
    budgets = boto3.client("budgets", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    usd = {"Amount": "100", "Unit": "USD"}
    budget = {"BudgetName": "b", "TimeUnit": "MONTHLY", "BudgetType": "COST", "BudgetLimit": usd}
    with Stubber(budgets) as stubbed:
        stubbed.add_response(
            "describe_budget", {"Budget": {**budget, "CalculatedSpend": {"ActualSpend": {"Amount": "117.25", "Unit": "USD"}}}}
        )
        stubbed.add_response("describe_budget", {"Budget": budget})
        stubbed.add_client_error("describe_budget", "NotFoundException")
        assert spent_of(budgets, "123456789012", "b") == (117.25, 100.0)
        assert spent_of(budgets, "123456789012", "b") == (0.0, 100.0)
        assert spent_of(budgets, "123456789012", "b") is None
