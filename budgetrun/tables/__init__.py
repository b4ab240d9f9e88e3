"""From finished runs to tables. Free of torch."""
