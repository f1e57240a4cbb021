"""Checks as JUnit XML, the format in which continuous-integration systems take test results."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from neurocollapse.support.text import visible


class Case(NamedTuple):
    """A check: its name, what it found, and why it was not made."""

    name: str
    failures: tuple[str, ...] = ()
    skipped: str = ""


def junit(name: str, cases: Sequence[Case]) -> str:
    """One test suite.

    Examples
    --------
    >>> print(junit("gate", [Case("compression@last > 1")]))
    <?xml version="1.0" encoding="utf-8"?>
    <testsuite name="gate" tests="1" failures="0" errors="0" skipped="0">
      <testcase classname="gate" name="compression@last &gt; 1" />
    </testsuite>
    """
    counts = {
        "tests": len(cases),
        "failures": sum(bool(case.failures) for case in cases),
        "errors": 0,
        "skipped": sum(bool(case.skipped) for case in cases),
    }
    suite = ElementTree.Element("testsuite", {"name": name} | {key: str(count) for key, count in counts.items()})
    for case in cases:
        entry = ElementTree.SubElement(suite, "testcase", classname=name, name=visible(case.name))
        if case.failures:
            failure = ElementTree.SubElement(entry, "failure", message=case.failures[0])
            failure.text = "\n".join(case.failures)
        elif case.skipped:
            ElementTree.SubElement(entry, "skipped", message=case.skipped)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode")
