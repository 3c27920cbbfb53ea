"""Exchange-folder front end for devices."""
