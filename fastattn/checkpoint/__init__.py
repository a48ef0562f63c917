"""A trained model, wherever it is, as (config, parameters): a folder, the Hub, a torch module."""
