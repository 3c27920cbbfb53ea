"""Messages, codecs, device protocol, exchange folder and bundles: all that crosses the network."""
