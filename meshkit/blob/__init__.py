"""Objects in an S3 store: one bucket, asynchronous, with presigned URLs for everybody else."""

from meshkit.blob.presign import PresignKey, presign
from meshkit.blob.store import BlobError, BlobNotFound, BlobPart, BlobStat, BlobStore, BlobUnavailable
from meshkit.blob.verified_put import VerifiedPut

__all__ = [
    "BlobError",
    "BlobNotFound",
    "BlobPart",
    "BlobStat",
    "BlobStore",
    "BlobUnavailable",
    "PresignKey",
    "VerifiedPut",
    "presign",
]
