"""Objects in S3 that settings name: whether the caller may read one, with nothing fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from monai_aws_pipeline.cloud.errors import code_of
from monai_aws_pipeline.maps import download

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ABSENT = ("404", "NoSuchKey", "NotFound", "NoSuchBucket")


def looking_into(s3: S3Client) -> download.S3Look:
    """Ask S3 whether an object is there, with nothing fetched."""

    def look(bucket: str, key: str) -> None:
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if code_of(error) in _ABSENT:
                raise download.ModelMissingError("S3 holds no object of that name") from error
            # S3 says 403 for an object that is not there, too, where listing the bucket is not allowed.
            raise download.ModelUnreachableError(f"S3 answered {code_of(error)}; s3:GetObject and s3:ListBucket are needed") from error
        except BotoCoreError as error:
            raise download.ModelUnreachableError(f"S3 could not be asked ({type(error).__name__}); are there credentials?") from error

    return look
