"""Prints the first paragraph of every docstring of Python's standard library, a line each, after the object's name."""

import importlib
import inspect
import sys
import warnings

MODULES = """
abc argparse array ast asyncio base64 bisect bz2 calendar cmath codecs collections colorsys configparser contextlib
copy csv ctypes dataclasses datetime decimal difflib dis email enum fileinput fnmatch fractions ftplib functools gc
getpass gettext glob graphlib gzip hashlib heapq hmac html http.client http.cookies imaplib importlib inspect io
ipaddress itertools json keyword linecache locale logging lzma mailbox math mimetypes multiprocessing operator os
os.path pathlib pdb pickle pickletools platform plistlib pprint profile queue random re reprlib sched secrets select
selectors shelve shlex shutil signal smtplib socket sqlite3 ssl stat statistics string struct subprocess symtable sys
sysconfig tarfile tempfile textwrap threading time timeit token tokenize trace traceback tracemalloc types typing
unicodedata unittest urllib.parse urllib.request uuid warnings wave weakref webbrowser xml.dom.minidom
xml.etree.ElementTree zipfile zipimport zlib zoneinfo
""".split()


def first_paragraph(thing: object) -> str:
    """Return the first paragraph of a docstring as one line, without the signature that C functions begin with."""
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    text = " ".join(paragraphs[0].split())
    signature_only = text.endswith(")") and "(" in text and len(paragraphs) > 1
    return " ".join(paragraphs[1].split()) if signature_only else text


def members(owner: object, name: str, depth: int = 2) -> dict[str, str]:
    """Return the texts of a module or class and of the public functions and classes that it defines, by dotted name."""
    texts = {name: first_paragraph(owner)}
    if depth and (inspect.ismodule(owner) or inspect.isclass(owner)):
        for key, value in vars(owner).items():
            imported = inspect.ismodule(owner) and str(getattr(value, "__module__", "")).lstrip("_") != name
            if callable(value) and not imported and not key.startswith("_"):
                texts |= members(value, f"{name}.{key}", depth - 1)
    return texts


def main() -> None:
    """Print the texts, each once."""
    seen = set()
    for module in MODULES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                found = members(importlib.import_module(module), module)
            except ImportError:  # not every build of Python has every module
                continue
        for name, text in found.items():
            if len(text) > 20 and text not in seen:
                seen.add(text)
                sys.stdout.write(f"{name}: {text}\n")


if __name__ == "__main__":
    main()
