"""What can be said of a file before a byte of it has come."""

from __future__ import annotations

from catalog_svc.domain.entry import EntryKind
from catalog_svc.domain.errors import FileTooLarge, InvalidField
from catalog_svc.domain.file_path import BadPath, check_path
from catalog_svc.domain.model_files import check_model_file
from catalog_svc.domain.upload import FileHeader


def check_header(header: FileHeader, max_file_bytes: int, *, field: str) -> None:
    """Checks a file's announced path, kind and size; `field` is where the header stands in the request.

    Raises:
        InvalidField: the path cannot be used.
        FileNotAllowed: a model can never hold such a file.
        FileTooLarge: the operator allows no file of that size.
    """
    try:
        check_path(header.path)
    except BadPath as error:
        raise InvalidField(f"{field}.path", str(error)) from error
    if header.parent_kind is EntryKind.MODEL:
        check_model_file(header.path)
    if header.size_bytes > max_file_bytes:
        raise FileTooLarge(header.path, header.size_bytes, max_file_bytes)
