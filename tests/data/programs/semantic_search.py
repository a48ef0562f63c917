"""Finds the passages of a corpus that answer a query: by util.semantic_search, and by torch.topk on similarities."""

import torch
from sentence_transformers import SentenceTransformer, util

embedder = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
corpus_embeddings = embedder.encode_document(corpus, convert_to_tensor=True)

results = []
for query in queries:
    query_embedding = embedder.encode_query(query, convert_to_tensor=True)
    similarity_scores = embedder.similarity(query_embedding, corpus_embeddings)[0]
    scores, indices = torch.topk(similarity_scores, k=3)
    for score, index in zip(scores, indices, strict=True):
        results.append((query, corpus[index], float(score)))

hits = util.semantic_search(embedder.encode(queries), embedder.encode(corpus), top_k=4)
for query, found in zip(queries, hits, strict=True):
    results += [(query, corpus[hit["corpus_id"]], hit["score"]) for hit in found]

normalized = util.normalize_embeddings(embedder.encode(corpus, convert_to_tensor=True))
for found in util.semantic_search(normalized[:5], normalized, score_function=util.dot_score, top_k=2):
    results += [(hit["corpus_id"], hit["score"]) for hit in found]
