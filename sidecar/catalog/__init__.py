"""What is known about models and nodes: shipped as data, overlaid by settings, frozen at start.

`models.toml` holds facts (prices with the day they were read, limits, ends), `nodes.toml` the portfolio, `profiles.toml` who answers by
default. All three are read by the settings' own reader, so a deployment can override each figure under the same key.
"""

from sidecar.catalog.facts import Model, Node, Prices, Profile
from sidecar.catalog.loading import load
from sidecar.catalog.lookup import Catalog

__all__ = ["Catalog", "Model", "Node", "Prices", "Profile", "load"]
