"""What of a study may be opened, and how: its records, the files that a record names, its original. Reads alone.

Every name that comes from a browser is looked up among those that a record or a listing has; no key is ever made of one. What is opened
is fetched from S3 by the browser itself, at an address signed for minutes when it is clicked; only the preview passes through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from monai_aws_pipeline.cloud.session import Clients
from monai_aws_pipeline.contract import (
    OUTPUT_PREFIX,
    ContractError,
    OutputFile,
    ResultRecord,
    Status,
    commit_keys,
    output_key,
    quarantine_key,
)
from monai_aws_pipeline.contract.outputs import LOG, PREVIEW
from monai_aws_pipeline.operations.kept_original import KeptObject, kept_original
from monai_aws_pipeline.operations.results_store import ResultsStore, StoredResult, UnreadableResultError
from monai_aws_pipeline.portal.addresses import LOG_FILE, PREVIEW_FILE, RECORD_FILE
from monai_aws_pipeline.portal.picture import MAX_SOURCE_BYTES, MAX_SOURCE_PIXELS, fit_to_show
from monai_aws_pipeline.portal.texts import TextError

SIGNED_SECONDS: Final = 300
MAX_ANSWERS: Final = 100
_READERS: Final = 8
_SHOWN: Final = {LOG: "text/plain; charset=utf-8"}
"""Kinds that a browser shows; anything else is saved, so that no file of an application runs as a page."""


class NotThereError(TextError):
    """There is no such study, job or file, or there is none any more."""


class StudyFiles:
    """The studies of one bucket, seen with the caller's own credentials. Safe to use from several threads."""

    def __init__(self, clients: Clients, bucket: str):
        self._clients = clients
        self.store = ResultsStore(clients.s3, bucket)

    @property
    def address(self) -> str:
        """The origin of the bucket, as an address that is signed for a browser has it."""
        parts = urlsplit(self._clients.s3_unsigned.generate_presigned_url("head_bucket", Params={"Bucket": self.store.bucket}))
        return f"{parts.scheme}://{parts.netloc}"

    def result(self, study: str, job: str) -> StoredResult:
        """How a job ended for a study (empty: before its study was known). Raises NotThereError, UnreadableResultError."""
        return self.store.with_outputs(self.record(study, job))

    def record(self, study: str, job: str) -> ResultRecord:
        """The commit record alone. Raises NotThereError, UnreadableResultError."""
        return self._committed(study, job)[1]

    def _committed(self, study: str, job: str) -> tuple[str, ResultRecord]:
        try:
            keys = commit_keys(study, job)
        except ContractError:
            keys = ()
        for key in keys:
            record = self.store.record(key)
            if record is not None and record.job == job and record.study in (study, ""):
                return key, record
        raise NotThereError("no_such_answer")

    def answers(self, study: str) -> tuple[StoredResult, ...]:
        """All answers to a study, the oldest first. Raises NotThereError where there is none."""
        found = self._clients.s3.list_objects_v2(
            Bucket=self.store.bucket, Prefix=f"{OUTPUT_PREFIX}{study}/", Delimiter="/", MaxKeys=MAX_ANSWERS
        )
        jobs = [item["Prefix"].split("/")[2] for item in found.get("CommonPrefixes", [])]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="answers") as readers:
            read = [result for result in readers.map(lambda job: self._answer(study, job), jobs) if result]
        if not read:
            raise NotThereError("no_answers")
        return tuple(sorted(read, key=lambda result: (result.record.committed_at, result.record.job)))

    def _answer(self, study: str, job: str) -> StoredResult | None:
        try:
            found = self.result(study, job)
        except (NotThereError, UnreadableResultError):  # a folder whose record was never written, or is damaged: its own page says so
            return None
        return found if found.record.status is Status.SUCCEEDED else None

    def originals(self, record: ResultRecord) -> Mapping[str, KeptObject]:
        """What was uploaded, by a name for each file; of a folder that was refused the first hundred, empty where nothing is kept."""
        kept = kept_original(self._clients.s3, self.store.bucket, record)
        return {each.key.rpartition("/")[2]: each for each in kept}

    def link(self, study: str, job: str, name: str) -> str:
        """An address of a file that the record names, or of the record, signed for minutes. Raises NotThereError."""
        key, record = self._committed(study, job)
        if name == RECORD_FILE:
            return self._signed(key, name, "application/json")
        output = files_of(record).get(name)
        if output is None:
            raise NotThereError("no_such_file")
        return self._signed(output.key, name, _SHOWN.get(output.kind, ""))

    def original_link(self, record: ResultRecord, name: str) -> str:
        """An address of the original, signed for minutes. Raises NotThereError."""
        original = self.originals(record).get(name)
        if original is None:
            raise NotThereError("original_expired")
        return self._signed(original.key, name, "")

    def preview(self, record: ResultRecord, widest: int = MAX_SOURCE_PIXELS) -> bytes:
        """The picture, at most so many pixels wide, as a PNG that is fit for a browser. Raises NotThereError, PreviewError."""
        output = files_of(record).get(PREVIEW_FILE)
        if output is None or output.kind != PREVIEW:
            raise NotThereError("no_preview")
        try:
            body = self._clients.s3.get_object(Bucket=self.store.bucket, Key=output.key)["Body"]
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                raise NotThereError("preview_gone") from error
            raise
        with body:
            return fit_to_show(body.read(MAX_SOURCE_BYTES + 1), widest)

    def _signed(self, key: str, name: str, shown_as: str) -> str:
        saved_as = f'{"inline" if shown_as else "attachment"}; filename="{name.rpartition("/")[2]}"'
        return self._clients.s3_presigning.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self.store.bucket,
                "Key": key,
                "ResponseContentDisposition": saved_as,
                "ResponseContentType": shown_as or "application/octet-stream",
            },
            ExpiresIn=SIGNED_SECONDS,
        )


def files_of(record: ResultRecord) -> dict[str, OutputFile]:
    """The outputs that a record names, by their names below the answer's own folder. One that lies elsewhere is none of its own."""
    folders = [quarantine_key(record.job, "x", record.study)[:-1]]
    if record.study:
        folders.append(output_key(record.study, record.job, "x")[:-1])
    named = {output.key.removeprefix(folder): output for output in record.outputs for folder in folders if output.key.startswith(folder)}
    return {name: output for name, output in named.items() if all(part not in ("", ".", "..") for part in name.split("/"))}


def log_of(record: ResultRecord) -> str:
    """The name of the application's log, empty where there is none."""
    return LOG_FILE if LOG_FILE in files_of(record) else ""
