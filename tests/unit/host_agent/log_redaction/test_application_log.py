"""The one line of an application's log that says why it ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_aws_pipeline.host_agent.log_redaction.application_log import LINE_CHARACTERS, last_meaningful_line
from tests.support.growth import grows_with_size

TRACEBACK = """\
[2026-01-15 10:03:21,004] [INFO] (root) - Parsed args: Namespace(log_level=None, input=None, output=None)
[info] [fragment.cpp:588] Loading extensions from configs...
[info] [gxf_executor.cpp:248] Creating context
Traceback (most recent call last):
  File "/opt/holoscan/app/__main__.py", line 14, in <module>
    BrainExtraction().run()
  File "/opt/holoscan/app/operators.py", line 71, in compute
    raise ValueError(f"no series of {count} is a volume")
ValueError: no series of 3 is a volume
"""
NOISE = """\

[info] [gxf_executor.cpp:2438] Graph execution finished.
[2026-01-15 10:03:25.771] [holoscan] [info] [gxf_executor.cpp:294] Destroying context
2026-01-15 10:03:25,772 INFO app.BrainExtraction - End run
 45%|####5     | 83/181 [00:01<00:01, 55.31it/s]
\x1b[32m[INFO]\x1b[0m cleaning up
[2026-01-15 10:03:26,001] [INFO] (holoscan_runner) - Application exited with 1.

"""
CHAINED = """\
Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/pydicom/dataset.py", line 908, in __getattr__
    return object.__getattribute__(self, name)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
AttributeError: 'FileDataset' object has no attribute 'PixelSpacing'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/opt/holoscan/app/loader.py", line 9, in load
    raise monai.deploy.exceptions.ItemNotExistsError("no spacing") from error
monai.deploy.exceptions.ItemNotExistsError: no spacing
"""
OPERATOR = """\
[error] [gxf_wrapper.cpp:100] Exception occurred for operator: 'segmentation_op' - RuntimeError: CUDA out of memory (2.00 GiB)

At:
  /opt/holoscan/app/operators.py(66): compute

[error] [entity_executor.cpp:596] [E00025] Failed to tick codelet segmentation_op in entity: segmentation_op code: GXF_FAILURE
[warning] [greedy_scheduler.cpp:243] Error while executing entity 25 named 'segmentation_op': GXF_FAILURE
[info] [greedy_scheduler.cpp:401] Scheduler finished.
[error] [program.cpp:580] wait failed. Deactivating...
[error] [runtime.cpp:1649] Graph wait failed with error: GXF_FAILURE
[error] [gxf_executor.cpp:2446] Graph execution error: GXF_FAILURE
Traceback (most recent call last):
  File "/opt/holoscan/app/__main__.py", line 14, in <module>
    App().run()
RuntimeError: Failed to launch app
"""


def last(log: str) -> str:
    return last_meaningful_line(log.splitlines())


def test_of_a_traceback_it_is_the_exceptions_own_line() -> None:
    assert last(TRACEBACK) == "ValueError: no series of 3 is a volume"


def test_noise_after_the_traceback_hides_it_not() -> None:
    assert last(TRACEBACK + NOISE) == "ValueError: no series of 3 is a volume"


CAUSE = "AttributeError: 'FileDataset' object has no attribute 'PixelSpacing'"
DURING = "During handling of the above exception, another exception occurred:"


def test_of_chained_tracebacks_it_is_the_last_ones_with_what_it_came_of() -> None:
    assert last(CHAINED + NOISE) == f"monai.deploy.exceptions.ItemNotExistsError: no spacing (came of {CAUSE})"
    third = f'\n{DURING}\n\nTraceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f()\nRuntimeError: no study\n'
    assert last(CHAINED + third + NOISE) == f"RuntimeError: no study (came of {CAUSE})", "the first of the chain is what went wrong"


def test_tracebacks_that_are_no_chain_are_no_cause_of_each_other() -> None:
    assert last(CHAINED + "went on without it\n" + TRACEBACK) == "ValueError: no series of 3 is a volume"


def test_a_long_exception_leaves_room_for_its_cause() -> None:
    found = last(CHAINED.replace("no spacing\n", "x" * 500 + "\n"))
    assert len(found) == LINE_CHARACTERS
    assert found.endswith(f"… (came of {CAUSE})")


@pytest.mark.parametrize(
    "banner",
    [
        "Shutting down.", "Exiting...", "*** Goodbye ***", "cleaning up temporary files", "Shutdown complete", "Done.", "Processing: 100%",
        "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked semaphore",
        "  warnings.warn('resource_tracker: There appear to be %d '",
    ],
)  # fmt: skip
def test_a_banner_is_no_last_word(banner: str) -> None:
    assert last(f"no suitable series, giving up\n{banner}\n") == "no suitable series, giving up"
    assert last(f"{banner}\n") == " ".join(banner.split()), "unless nothing else was said"


@pytest.mark.parametrize(
    "line", ["ValueError: 45% of the slices are missing", "Shutting down because no series is a volume", "Done with 0 of 3"]
)
def test_what_only_begins_like_a_banner_or_progress_is_said(line: str) -> None:
    assert last(f"loading\n{line}\n") == line


def test_of_an_application_that_was_killed_it_is_where_it_was() -> None:
    bar = " 66%|######    | 120/181 [09:59<05:01]"
    went_on = f"{TRACEBACK}[INFO] tried again without the cache\n[INFO] inferring slice 120 of 181\n{bar}\n"
    killed = last_meaningful_line(went_on.splitlines(), killed=True)
    assert killed == "[INFO] inferring slice 120 of 181"
    hung = (TRACEBACK + "Shutting down.\n\n").splitlines()
    assert last_meaningful_line(hung, killed=True) == "ValueError: no series of 3 is a volume", "it hung after it had failed"
    assert last_meaningful_line([bar], killed=True) == " ".join(bar.split())
    assert last_meaningful_line([], killed=True) == ""


def test_where_the_traceback_is_the_frameworks_own_it_is_the_operators_exception() -> None:
    assert last(OPERATOR + NOISE) == "RuntimeError: CUDA out of memory (2.00 GiB)"


def test_an_exception_without_words_and_one_of_several_lines_are_named() -> None:
    head = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f()\n'
    assert last(head + "AssertionError\n") == "AssertionError"
    assert last(head + "torch.cuda.OutOfMemoryError: CUDA out of memory.\n  of which 3 MiB is free\n") == (
        "torch.cuda.OutOfMemoryError: CUDA out of memory."
    )
    assert last(head + "ValidationError: 1 error for Model\nfield\n  value is no float\n") == "ValidationError: 1 error for Model"


def test_a_traceback_that_never_ends_gives_way_to_what_else_was_said() -> None:
    assert last("RuntimeError: model is missing\nTraceback (most recent call last):\n  File \"a.py\", line 1, in f\n") == (
        "RuntimeError: model is missing"
    )  # fmt: skip


def test_what_the_system_said_last_counts_more_than_a_traceback_before_it() -> None:
    assert last(TRACEBACK + "Segmentation fault (core dumped)\n") == "Segmentation fault (core dumped)"
    what = "terminate called after throwing an instance of 'c10::Error'\n  what():  CUDA error: device-side assert triggered\n"
    assert last(what + "Aborted (core dumped)\n") == "CUDA error: device-side assert triggered"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("loading\nbrain extraction failed: ValueError: no volume\n" + NOISE, "brain extraction failed: ValueError: no volume"),
        ("[error] [resource.cpp:12] model.ts is missing\n" + NOISE, "[error] [resource.cpp:12] model.ts is missing"),
        ("2026-01-15 10:03:25 ERROR no series selected\n" + NOISE, "2026-01-15 10:03:25 ERROR no series selected"),
        ("python: can't open file '/opt/app.py': No such file\n", "python: can't open file '/opt/app.py': No such file"),
        ("working\nno suitable series, giving up\n" + NOISE, "no suitable series, giving up"),
        ("12%\r 55%\r\x1b[Kdone with nothing\n\n", "done with nothing"),
        ("[info] only this\n", "[info] only this"),
        ("", ""),
        ("\n \n\x1b[0m\n", ""),
    ],
)
def test_without_a_traceback_it_is_the_last_line_that_says_something(log: str, line: str) -> None:
    assert last(log) == line


def test_it_is_short_has_no_control_characters_and_no_secret() -> None:
    found = last("\x1b[31mOSError: " + "x\t" * 600 + "\x07\n")
    assert len(found) == LINE_CHARACTERS
    assert found.isprintable()
    assert found.endswith("…")
    assert "hf_abcdefghijklmnopqrstuvwx" not in last("OSError: refused token=hf_abcdefghijklmnopqrstuvwx\n")


@given(st.lists(st.text(max_size=200), max_size=20))
def test_whatever_the_lines_are_there_is_at_most_one_short_printable_line(lines: list[str]) -> None:
    found = last_meaningful_line(lines)
    assert len(found) <= LINE_CHARACTERS
    assert "\n" not in found
    assert "\x1b" not in found


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        " ",
        "a.",
        "Exception occurred for operator: '",
        "1/1 [",
        "Error: ",
        "Traceback (most recent call last): ",
        "%|",
        "ing: ",
        "Bye ",
        "Shutting down ",
    ],
)
def test_hostile_lines_take_no_more_time_than_their_length(piece: str) -> None:
    grows_with_size(lambda size: last_meaningful_line([(piece * size)[:size]] * 3 + [(piece * 4096)[:4096]] * (size // 800)), 50_000)
