"""What the name and the first bytes of a file say of it: whether it may be a DICOM file, or hold one that nobody here can see.

Here belong the lists and signatures by which ``intake`` decides; it opens nothing and refuses nothing. Names are judged and never used.
Sources: PS3.10 section 7.1 (preamble), RFC 1952 (gzip), POSIX pax (tar), ECMA-119 (ISO 9660), the formats' own signatures.
"""

from __future__ import annotations

import re
import zlib
from enum import StrEnum
from typing import Final

HEAD_BYTES: Final = 40 << 10
"""How much of a file is looked at: the signature of a disc image lies at 32 KiB."""
DICOM_BYTES: Final = 132
"""Preamble and ``DICM``: what is shorter is no DICOM file."""
LOCAL_HEADER: Final = b"PK\x03\x04"
SPLIT_HEADER: Final = b"PK\x07\x08"
_DICOM_UID: Final = b"1.2.840.10008."
_META_BYTES: Final = 4096


class PassedOver(StrEnum):
    """What was in an upload and is no image, in the words of the record."""

    NO_DICOM = "no DICOM"
    EMPTY = "empty file"
    MACOS = "macOS file"
    LINK = "link"
    DEVICE = "device or pipe that is no image"
    ENCRYPTED = "encrypted file that is no image"
    COMPRESSION = "file of another compression that is no image"
    DAMAGED = "damaged file that is no image"
    FALSE_ZIP = "zip inside that is none"
    ARCHIVE = "archive of a program"


_NO_IMAGE: Final = frozenset(
    {
        "exe", "dll", "com", "sys", "drv", "ocx", "cpl", "scr", "msi", "msp", "cab", "bat", "cmd", "ps1", "vbs", "sh", "command", "app",
        "so", "dylib", "jar", "war", "class", "nib", "xib", "storyboardc", "strings", "plist", "icns", "pkg", "dmg", "deb", "rpm", "jnlp",
        "lnk", "desktop", "txt", "text", "md", "rtf", "doc", "docx", "dot", "dotx", "odt", "ods", "odp", "xls", "xlsx", "ppt", "pptx",
        "pdf", "ps", "eps", "chm", "hlp", "htm", "html", "xhtml", "css", "js", "mjs", "json", "xml", "xsl", "xslt", "xsd", "dtd", "csv",
        "tsv", "log", "ini", "inf", "cfg", "conf", "config", "properties", "yaml", "yml", "nfo", "url", "rels", "mf", "sf", "rsa", "jpg",
        "jpeg", "jpe", "png", "gif", "bmp", "tif", "tiff", "svg", "svgz", "ico", "cur", "webp", "heic", "psd", "mp3", "mp4", "m4a", "m4v",
        "wav", "wma", "avi", "mov", "wmv", "mpg", "mpeg", "flv", "swf", "ttf", "ttc", "otf", "woff", "woff2", "eot", "db", "sqlite",
        "mdb", "ds_store", "md5", "sha1", "sha256", "nii", "nrrd", "nhdr", "mha", "mhd", "stl", "obj",
    }
)  # fmt: skip
"""Extensions that no DICOM file has. Not among them is what exports use (none, a number, dcm, ima, img, dic, bin, dat), nor an archive."""
_NO_IMAGE_NAMES: Final = frozenset({"readme", "license", "licence", "copying", "notice", "pkginfo", "coderesources"})
_PROGRAM_FOLDERS: Final = frozenset(
    {"viewer", "viewers", "program", "programs", "program files", "software", "jre", "java", "bin", "lib", "libs", "plugins", "help"}
)
_BUNDLE: Final = re.compile(r".+\.(app|framework|bundle)", re.IGNORECASE)
_IMAGE_NAME: Final = re.compile(r".*\.(dcm|dicom|dic|ima|img)|[0-9.]+|[a-z]{0,12}[_ -]?[0-9]+", re.IGNORECASE)
_ICON: Final = re.compile(r"(\._)?Icon\r")

_SIGNATURES: Final = tuple(
    (re.compile(signature, re.DOTALL), words)
    for signature, words in (
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (rb"Rar!\x1a\x07", "a RAR archive"),
        (rb"\x1f\x8b\x08", "a gzip file (.gz, .tar.gz)"),
        (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "a bzip2 file (.bz2, .tar.bz2)"),
        (rb"\xfd7zXZ\0", "an xz file (.xz, .tar.xz)"),
        (rb"\x28\xb5\x2f\xfd", "a Zstandard file (.zst)"),
        (rb"\x1f\x9d[\x80-\x90]", "a compress file (.Z, .tar.Z)"),
        (rb"\x04\x22\x4d\x18", "an LZ4 file (.lz4)"),
        (rb"LZIP\x01", "an lzip file (.lz)"),
        (rb"ALZ\x01", "an ALZ archive"),
        (rb"EGGA", "an EGG archive"),
        (rb"MSCF\0\0\0\0", "a cabinet file (.cab)"),
        (rb"..-lh[0-9d]-", "an LHA archive"),
        (rb".{257}ustar", "a tar archive"),
        (rb".{32769}CD001", "a disc image (.iso)"),
    )
)


def is_icon(name: str) -> bool:
    """Whether this is the icon of a folder, which macOS names with a carriage return at its end."""
    return bool(_ICON.fullmatch(name.rpartition("/")[2]))


def is_macos(name: str) -> bool:
    """Whether a file is one that macOS keeps beside others: resource forks, icons, views of folders."""
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith("._") or last == ".DS_Store" or is_icon(name)


def is_no_image(name: str) -> bool:
    """Whether the name alone says that a file is no DICOM file: its extension, a part of an application's bundle, a macOS file."""
    *folders, last = name.lower().split("/")
    _, dot, extension = last.rpartition(".")
    known = extension in _NO_IMAGE if dot else last in _NO_IMAGE_NAMES
    return known or is_macos(name) or any(_BUNDLE.fullmatch(folder) for folder in folders)


def is_image_name(name: str) -> bool:
    """Whether a name looks like those that images have: ``IM_0001``, ``1.2.840.1``, ``a.dcm``."""
    return bool(_IMAGE_NAME.fullmatch(name.rstrip("/").rpartition("/")[2]))


def in_program(name: str) -> bool:
    """Whether a file lies in the folder of a program, as a viewer's does on a CD."""
    return any(folder in _PROGRAM_FOLDERS or _BUNDLE.fullmatch(folder) for folder in name.lower().split("/")[:-1])


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes are a preamble followed by ``DICM``."""
    return len(head) >= DICOM_BYTES and head[128:132] == b"DICM"


def looks_headless(head: bytes) -> bool:
    """Whether a file begins like a data set without preamble.

    It starts with group 2 or 8, whatever its transfer syntax, and names a class of DICOM's own soon after.
    """
    return head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00" and _DICOM_UID in head[:_META_BYTES]


def archive_kind(head: bytes) -> str:
    """What archive or compressed file the first bytes are those of, in words; empty for none. Zips are not among them."""
    return next((words for signature, words in _SIGNATURES if signature.match(head)), "")


def hides_no_image(head: bytes) -> bool:
    """Whether the first bytes of a gzip show that neither a DICOM file nor an archive is in it (``.nii.gz``, ``.txt.gz``)."""
    if not head.startswith(b"\x1f\x8b"):
        return False
    unpacker = zlib.decompressobj(31)
    try:
        inside = unpacker.decompress(head, _META_BYTES)
    except zlib.error:
        return False
    if len(inside) < DICOM_BYTES and not unpacker.eof:
        return False
    return not (looks_like_dicom(inside) or looks_headless(inside) or archive_kind(inside) or inside.startswith(LOCAL_HEADER))


def described(head: bytes) -> str:
    """What an upload is that is no zip, in words; empty where its first bytes do not say it."""
    if looks_like_dicom(head) or looks_headless(head):
        return "a single DICOM file"
    if head.startswith(b"%PDF"):
        return "a PDF"
    return archive_kind(head)
