"""Reads a trained model as (config, parameters): from a folder, from the Hub, from a torch module."""
