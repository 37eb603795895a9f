"""HTTP clients that only connect where the URL policy lets them."""
