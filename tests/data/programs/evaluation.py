"""Measures how well similarities agree with judgements."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator

model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2", similarity_fn_name="cosine")
half = len(corpus) // 2
evaluator = EmbeddingSimilarityEvaluator(corpus[:half], corpus[half : 2 * half], [i % 5 / 5 for i in range(half)])
results = sorted((key, float(value)) for key, value in model.evaluate(evaluator).items())
