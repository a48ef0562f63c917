#!/bin/sh
# Embeds the documentation of Python's standard library, then asks it a few questions in words that it does not use.
# BIN is the folder of the environment's programs.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "Embedding what the standard library says about itself:"
"$BIN/python" examples/standard_library.py > "$work/texts.txt"
"$BIN/fastattn" embed "$work/texts.txt" -o "$work/texts.npy"

for question in \
    "where did my memory go?" \
    "pick a winner from a list by chance" \
    "hide the password while the user types it" \
    "tidy up a paragraph so lines are not too long"
do
    printf '\n? %s\n' "$question"
    "$BIN/fastattn" search "$work/texts.npy" "$question" --texts "$work/texts.txt" -k 3
done

cat <<END

Ask your own:
  $BIN/python examples/standard_library.py > texts.txt
  $BIN/fastattn search texts.txt "your question"
See inside:
  $BIN/fastattn walkthrough "hello world"
END
