"""Chapters of the walkthrough: how an encoder learns, each on the reader's own text."""
