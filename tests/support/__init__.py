"""Shared code of the tests: cases, the tolerance, small models, rules of the layout."""
