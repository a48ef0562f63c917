"""Models that read text: SentenceTransformer, CrossEncoder, their modules and folders."""
