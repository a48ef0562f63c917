"""Tests, in the package's folders; `promises` holds the promises to users, `project` the rules of the project."""
