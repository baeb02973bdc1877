"""Serving: the page and the REST API over a searcher and a model, with keys, limits, logs and metrics."""

from chiasm._optional import require

require("fastapi", "serve", "serve a collection")
