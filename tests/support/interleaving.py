"""Hosts that share one bucket, played call by call: every order in which their S3 calls can happen, and every point at which one can die.

Here belong a bucket in memory with S3's conditional writes, and the stage that lets one host at a time make one call. The same hosts under
the same order always do the same, so that all orders can be gone through one after another. Orders that lead to the same point (the same
bucket, and hosts that have seen the same) are gone on from once: nothing that follows can differ.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from botocore.response import StreamingBody

Act = Callable[[Any], object]
"""What a host does, given its S3 client."""


class Died(BaseException):
    """Power was lost."""


class Bucket:
    """The part of boto3's S3 client that the agent uses, on a dictionary. ``test_one_answer.py`` holds it to moto."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_object(self, **call: Any) -> dict[str, Any]:
        key, body = call["Key"], call["Body"]
        if "IfNoneMatch" in call and key in self.objects:
            raise _refused("PreconditionFailed", 412)
        if "IfMatch" in call:
            if key not in self.objects:
                raise _refused("NoSuchKey", 404)
            if call["IfMatch"] != _etag(self.objects[key]):
                raise _refused("PreconditionFailed", 412)
        self.objects[key] = body
        return {"ETag": _etag(body)}

    def upload_file(self, name: str, bucket: str, key: str, **_: Any) -> None:
        self.objects[key] = Path(name).read_bytes()

    def get_object(self, **call: Any) -> dict[str, Any]:
        if call["Key"] not in self.objects:
            raise _refused("NoSuchKey", 404)
        body = self.objects[call["Key"]]
        return {"Body": StreamingBody(io.BytesIO(body), len(body)), "ETag": _etag(body)}

    def delete_object(self, **call: Any) -> None:
        self.objects.pop(call["Key"], None)

    def get_paginator(self, _: str) -> Bucket:
        return self

    def paginate(self, **call: Any) -> list[dict[str, Any]]:
        found = {key: body for key, body in sorted(self.objects.items()) if key.startswith(call["Prefix"])}
        now = datetime.now(UTC)
        return [{"Contents": [{"Key": key, "ETag": _etag(body), "Size": len(body), "LastModified": now} for key, body in found.items()]}]


class Stage:
    """One play: hosts in threads, of which only the one that was called makes its next S3 call."""

    def __init__(self, bucket: Bucket, acts: Sequence[Act], dies_before: dict[int, int] | None = None):
        self.bucket = bucket
        self.results: list[object] = [None] * len(acts)
        self.received: list[tuple[int, int]] = []
        """For each call: which of the hosts that could go on did, and how many could and were not tried from this point before."""
        self.seen: list[list[object]] = [[] for _ in acts]
        """What each host has been told by the bucket."""
        self._dies_before = dies_before or {}
        self._turns = [threading.Semaphore(0) for _ in acts]
        self._came_back = threading.Semaphore(0)
        self._going = list(range(len(acts)))
        self._threads = [threading.Thread(target=self._act, args=(number, act), daemon=True) for number, act in enumerate(acts)]

    def play(self, order: Sequence[int] = (), known: set[int] | None = None) -> Stage:
        """To the end of all hosts. ``order``: which of those that can go on is called each time; after it, always the first.

        ``known``: points that were reached in earlier plays; those of this one are added.
        """
        points = set[int]() if known is None else known
        fresh = True
        for thread in self._threads:
            thread.start()
            assert self._came_back.acquire(timeout=30)
        while self._going:
            chosen = order[len(self.received)] if len(self.received) < len(order) else 0
            if len(self.received) >= len(order):
                point = hash((frozenset(self.bucket.objects.items()), str(self.seen)))
                fresh = fresh and point not in points
                points.add(point)
            self.received.append((chosen, len(self._going) if fresh else 1))
            self._turns[self._going[chosen]].release()
            assert self._came_back.acquire(timeout=30), "a host hangs"
        return self

    def _act(self, number: int, act: Act) -> None:
        try:
            self.results[number] = act(_Client(self, number))
        except (Exception, Died) as ended:
            self.results[number] = ended
        finally:
            self._going.remove(number)
            self._came_back.release()

    def wait_for_turn(self, number: int, calls: int) -> None:
        """Called by a host before its next call, which is the ``calls``-th."""
        self._came_back.release()
        self._turns[number].acquire()
        if self._dies_before.get(number) == calls:
            raise Died


class _Client:
    """A host's S3 client."""

    def __init__(self, stage: Stage, number: int):
        self._stage, self._number, self._calls = stage, number, 0

    def get_paginator(self, _: str) -> _Client:
        return self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            stage, told = self._stage, self._stage.seen[self._number]
            stage.wait_for_turn(self._number, self._calls)
            self._calls += 1
            try:
                answer = getattr(stage.bucket, name)(*arguments, **options)
            except ClientError as refused:
                told.append(refused.response["Error"]["Code"])
                raise
            told.append([item["Key"] for item in answer[0]["Contents"]] if name == "paginate" else answer and answer["ETag"])
            return answer

        return call


def every_order(acts: Callable[[], Sequence[Act]]) -> Iterator[Stage]:
    """A play for each order in which the hosts' calls can happen, each on an empty bucket."""
    order: list[int] = []
    known: set[int] = set()
    while True:
        stage = Stage(Bucket(), acts()).play(order, known)
        yield stage
        received = stage.received
        while received and received[-1][0] + 1 >= received[-1][1]:
            received.pop()
        if not received:
            return
        order = [chosen for chosen, _ in received[:-1]] + [received[-1][0] + 1]


def every_death(acts: Sequence[Act]) -> Iterator[Stage]:
    """One after another on the same bucket; all but the last die, each before each of its calls."""

    def after(bucket: Bucket, left: Sequence[Act]) -> Iterator[Stage]:
        if len(left) == 1:
            yield Stage(bucket, left).play()
            return
        calls = 0
        while True:
            copy = Bucket()
            copy.objects = dict(bucket.objects)
            ended = Stage(copy, left[:1], {0: calls}).play().results[0]
            yield from after(copy, left[1:])
            if not isinstance(ended, Died):
                return
            calls += 1

    yield from after(Bucket(), acts)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _refused(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Call")  # type: ignore[typeddict-item]
