"""Groups sentences: by k-means, agglomerative clustering and community detection."""

from sentence_transformers import SentenceTransformer, util
from sklearn.cluster import AgglomerativeClustering, KMeans

embedder = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
corpus_embeddings = embedder.encode(corpus, normalize_embeddings=True)

clustering = KMeans(n_clusters=5, n_init=4, random_state=0).fit(corpus_embeddings)
agglomerated = AgglomerativeClustering(n_clusters=None, distance_threshold=1.5).fit(corpus_embeddings)
communities = util.community_detection(embedder.encode(corpus, convert_to_tensor=True), min_community_size=3, threshold=0.5)

results = [clustering.labels_.tolist(), agglomerated.labels_.tolist(), communities]
