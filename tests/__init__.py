"""Tests, in the folders of the package; promises to users, and rules of the project, have folders of their own."""
