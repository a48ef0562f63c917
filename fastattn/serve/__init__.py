"""`fastattn serve`: models behind the HTTP interfaces of OpenAI, Cohere and text-embeddings-inference."""
