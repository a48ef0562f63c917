"""Finds pairs of sentences with the same meaning."""

from sentence_transformers import SentenceTransformer, util

model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
paraphrases = util.paraphrase_mining(model, corpus, top_k=5)

results = [(corpus[i], corpus[j], score) for score, i, j in paraphrases[:20]]
shortened = util.paraphrase_mining(model, corpus[:40], truncate_dim=64, batch_size=8)
results += [(i, j, score) for score, i, j in shortened[:10]]
