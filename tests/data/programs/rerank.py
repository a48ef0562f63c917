"""Retrieves passages by embeddings, then reranks them by a cross-encoder."""

from sentence_transformers import CrossEncoder, SentenceTransformer, util

bi_encoder = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
bi_encoder.max_seq_length = 128
cross_encoder = CrossEncoder(cross_encoder_folder, max_length=64)
corpus_embeddings = bi_encoder.encode(corpus, convert_to_tensor=True, show_progress_bar=False)

results = []
for query in queries:
    hits = util.semantic_search(bi_encoder.encode(query, convert_to_tensor=True), corpus_embeddings, top_k=8)[0]
    scores = cross_encoder.predict([[query, corpus[hit["corpus_id"]]] for hit in hits])
    for hit, score in zip(hits, scores, strict=True):
        hit["cross-score"] = float(score)
    results += [(hit["corpus_id"], hit["cross-score"]) for hit in sorted(hits, key=lambda hit: hit["cross-score"], reverse=True)]
    ranked = cross_encoder.rank(query, [corpus[hit["corpus_id"]] for hit in hits], return_documents=True, top_k=3)
    results += [(hit["corpus_id"], hit["score"], hit["text"]) for hit in ranked]
