"""Messages, codecs, the device protocol, exchange folders and bundles: everything that crosses the network."""
