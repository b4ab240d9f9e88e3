"""One HTML page about finished runs. Free of torch."""
