"""Commands of the console that work on a user's table; `tinytsm.cli` lists them."""
